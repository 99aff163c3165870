"""Adam with one second moment for all parameters.

Adam divides each parameter's gradient by that parameter's own scale, so that all of them move
alike. With tens of picks most of a gradient is noise, and the signal lies in few parameters, where
it is large: Adam's division turns a direction that is mostly signal into one that is mostly noise
(studio/bench/LOG.md has the figures). With one scale for all parameters the direction
stays the gradient's, and the length of a step is still independent of the units of the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim.optimizer import ParamsT

FIRST_DECAY, SECOND_DECAY = 0.9, 0.999  # Adam's defaults
LEAST_SCALE = 1e-12  # avoids 0 / 0 for a gradient of zeros


class ScalarAdam(torch.optim.Optimizer):
    """Kingma & Ba, arXiv 1412.6980, algorithm 1, with the mean square of the whole gradient for v.

    All parameters of all groups share one scale, as in AdaGrad-Norm (Ward et al., arXiv
    1806.01811). `lr` is the root mean square over the parameters of a step along a constant
    gradient; each group may have its own.
    """

    def __init__(self, parameters: ParamsT, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        moving = [
            (parameter, group["lr"])
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if not moving:
            return
        count = sum(parameter.numel() for parameter, _ in moving)
        square = get_total_norm([parameter.grad for parameter, _ in moving]).square() / count
        for parameter, rate in moving:
            self._move(parameter, square, rate)

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
