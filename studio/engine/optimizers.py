"""The optimizer of a round, and an all-or-nothing step."""

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
    """Make the optimizer for the attached adapter, with one parameter group per learning rate.

    Raises TrainingFailed if `in_8bit` is asked for and bitsandbytes is not installed.
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
            "This round was begun with the 8-bit optimizer of bitsandbytes, which is no longer "
            "installed. Install it again, or begin a new round: your picks are kept."
        )
    return kind(groups, lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)


def step(optimizer: torch.optim.Optimizer) -> None:
    """Make one step, all or nothing: restores parameters and state if it fails midway."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = optimizer.state
    before = _on_cpu([(value, dict(state[value])) for value in parameters])
    try:
        optimizer.step()
    except Exception:
        # in place: the step may have failed because the memory ran out
        with torch.no_grad():
            for parameter, (value, known) in zip(parameters, before, strict=True):
                parameter.copy_(value)
                if not known:
                    del state[parameter]
                for name, moment in known.items():
                    if isinstance(moment, Tensor):
                        state[parameter][name].copy_(moment)
                    else:  # the 8-bit optimizer's step count is a plain number
                        state[parameter][name] = moment
        raise


def _on_cpu(tree: Any) -> Any:
    """Copy nested lists and dictionaries, with all tensors copied to the CPU."""
    return tree_map(
        lambda value: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value,
        tree,
    )
