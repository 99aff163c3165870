"""Adam with one second moment for all parameters: how far to go from the past, where to from now.

Adam divides each parameter's gradient by that parameter's own scale, so that all of them move
alike. With tens of picks most of a gradient is chance, and what is not lies in few parameters,
where it is large: Adam's division turns a direction that is mostly taste into one that is mostly
chance (studio/bench/LOG.md has the figures). With one scale for all, the direction stays the
gradient's, and the length of a step still does not depend on the units of the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim.optimizer import ParamsT

FIRST_DECAY, SECOND_DECAY = 0.9, 0.999  # as Adam has them
LEAST_SCALE = 1e-12  # so that a gradient of zeros moves nothing


class ScalarAdam(torch.optim.Optimizer):
    """Kingma & Ba, arXiv 1412.6980, algorithm 1, with the mean square of the whole gradient for v.

    One scale for all parameters, of all groups, as AdaGrad-Norm has it (Ward et al., arXiv
    1806.01811). `lr`: the root mean square over the parameters of a step along a gradient that does
    not change; each group of parameters may have its own.
    """

    def __init__(self, parameters: ParamsT, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        moving = [
            (one, group["lr"])
            for group in self.param_groups
            for one in group["params"]
            if one.grad is not None
        ]
        if not moving:
            return
        count = sum(one.numel() for one, _ in moving)
        square = get_total_norm([one.grad for one, _ in moving]).square() / count
        for one, rate in moving:
            self._move(one, square, rate)

    def _move(self, parameter: Tensor, square: Tensor, lr: float) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["moment"] = torch.zeros_like(parameter)
            state["square"] = torch.zeros_like(square, device=parameter.device)
        state["step"] += 1
        state["moment"].lerp_(parameter.grad, 1 - FIRST_DECAY)
        state["square"].lerp_(square.to(parameter.device), 1 - SECOND_DECAY)
        steps = float(state["step"])
        scale = (state["square"] / (1 - SECOND_DECAY**steps)).sqrt().clamp(min=LEAST_SCALE)
        parameter.sub_(state["moment"] / scale, alpha=lr / (1 - FIRST_DECAY**steps))
