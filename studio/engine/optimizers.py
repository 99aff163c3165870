"""The optimizer of a round, and a step of it that is made whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from studio.engine import memory
from studio.engine.errors import TrainingFailed
from studio.maths.scalar_adam import ScalarAdam
from studio.settings import TrainingSettings

if TYPE_CHECKING:
    from studio.models import Denoiser

WEIGHT_DECAY = 1e-2  # of AdamW


def make(denoiser: Denoiser, settings: TrainingSettings, in_8bit: bool) -> torch.optim.Optimizer:
    """For the parameters of the attached adapter, in a group for each learning rate.

    Raises TrainingFailed where 8-bit moments are wanted and bitsandbytes is not installed.
    """
    shortcuts = set(denoiser.adapters.shortcut_parameters())
    rates: dict[float, list[torch.nn.Parameter]] = {}
    for parameter in denoiser.adapters.parameters():
        share = settings.shortcut_rate if parameter in shortcuts else 1.0
        rates.setdefault(share * settings.learning_rate, []).append(parameter)
    groups = [{"params": parameters, "lr": rate} for rate, parameters in rates.items()]
    if settings.optimizer == "scalar_adam":
        return ScalarAdam(groups, lr=settings.learning_rate)
    kind = memory.eight_bit_adamw() if in_8bit else torch.optim.AdamW
    if kind is None:
        raise TrainingFailed(
            "This round was begun with the 8-bit optimiser of bitsandbytes, which is not here "
            "any more. Install it again, or begin a new round: your picks are kept."
        )
    return kind(groups, lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)


def step(optimizer: torch.optim.Optimizer) -> None:
    """One step; where it fails midway, parameters and state are as if it had never begun."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    state = optimizer.state
    before = _on_cpu([(value, dict(state[value])) for value in parameters])
    try:
        optimizer.step()
    except Exception:
        # into what is there already: this is no moment to ask for memory
        with torch.no_grad():
            for parameter, (value, known) in zip(parameters, before, strict=True):
                parameter.copy_(value)
                if not known:
                    del state[parameter]
                for name, moment in known.items():
                    if isinstance(moment, Tensor):
                        state[parameter][name].copy_(moment)
                    else:  # the 8-bit optimizer counts its steps so
                        state[parameter][name] = moment
        raise


def _on_cpu(tree: Any) -> Any:
    """A copy of all tensors in lists and dictionaries, on the CPU, and of what else is there."""
    return tree_map(
        lambda value: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value,
        tree,
    )
