"""Which mixture of known tastes a few picks point to. Margins in, weights out; no models.

PAL (Chen et al., arXiv 2406.08469) takes a new user for a mixture of prototypes, so that a few
comparisons find the user. Here the prototypes are adapters, and one more is the base model, which
prefers nothing: picks that agree with none of the tastes point to it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mixture(margins: Tensor) -> Tensor:
    """(K,): the weight of each of K tastes, none below 0 and all together at most 1.

    margins: (N, K), how much more each taste rewards the chosen picture of each pick than the
    rejected one, in units in which -log sigmoid(margin) is the loss (beta times the gains). The
    weights w, with that of the base the (K + 1)th, have the least

        sum over picks of -log sigmoid(margins · w) + KL(w, uniform)

    which has one minimum: before the first pick all weigh alike, and a taste needs more than one
    pick to stand out.
    """
    count = margins.shape[1]
    known = F.pad(margins.double(), (0, 1))
    logits = torch.zeros(count + 1, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logs = logits.log_softmax(0)
        weights = logs.exp()
        value = -F.logsigmoid(known @ weights).sum() + (weights * logs).sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return logits.detach().softmax(0)[:count].float()
