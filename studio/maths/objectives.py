"""Forms of a preference loss: the gains of chosen and rejected in, losses out. No models, no files.

A gain is log p_policy - log p_reference of a picture, or of a step of its drawing, in units of the
reduction of the log-probabilities. An untrained adapter has gains of 0. The estimator defines the
probability (`studio.engine.estimators`).

Shapes: `chosen`, `rejected` and the losses are (B,); the caller takes the mean. `beta` is in units
of 1 / gain. The docstrings write c and r for beta · chosen and beta · rejected, and z for c - r.
Where a form depends on z alone, beta multiplies the difference, which saves two roundings.

All forms that depend on z alone start in the same direction from an untrained adapter; they differ
once the gains spread. The tests have every form's derivatives at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Form = Callable[[Tensor, Tensor, float], Tensor]

SMOOTHING = 0.1  # the share of wrong picks that `smoothed` and `robust` expect
ANCHOR = 0.005  # eta of RPO's published code (2405.16436, its recipe for Zephyr)
LOSER = 0.5  # how much of the rejected side's gain `asymmetric` counts
MOST_EXPONENT = 80.0  # exp of more overflows float32


def clip(gain: Tensor, clip_range: float | None) -> Tensor:
    """A gain with its ratio exp(gain) clipped to 1 ± clip_range; None leaves it as it is.

    A gain beyond the range has no gradient. D3PO's published code clips at 0.1, takes means over
    the elements and beta 0.1, so its loss lies between 0.683 and 0.703.
    """
    if clip_range is None:
        return gain
    return gain.clamp(math.log(1 - clip_range), math.log(1 + clip_range))


# --- forms of the margin --------------------------------------------------------------------------


def dpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(z): Rafailov et al., arXiv 2305.18290, eq. 7.

    With gains of single denoising steps this is D3PO (Yang et al., arXiv 2311.13231, eq. 13); with
    gains of noised final images it is Diffusion-DPO (Wallace et al., arXiv 2311.12908, eq. 14).
    """
    return -F.logsigmoid(beta * (chosen - rejected))


def ipo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """(z - 1/2)²: Azar et al., arXiv 2310.12036, eq. 17, times beta². A margin is enough at 1/2.

    PRDP (Deng et al., arXiv 2402.08714) is this with another target: `Counts.offset` moves it.
    """
    return (beta * (chosen - rejected) - 0.5).square()


def hinge(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """max(0, 1 - z): SLiC and RSO (Liu et al., arXiv 2309.06657)."""
    return F.relu(1 - beta * (chosen - rejected))


def linear(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-z: P3O (Wu et al., arXiv 2310.00212) to first order, without its clip."""
    return -beta * (chosen - rejected)


def smoothed(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Labels wrong with probability s: -(1 - s) log sigmoid(z) - s log sigmoid(-z).

    Conservative DPO, also in "Secrets of RLHF II" (Wang et al., arXiv 2401.06080).
    """
    right, wrong = dpo(chosen, rejected, beta), dpo(rejected, chosen, beta)
    return (1 - SMOOTHING) * right + SMOOTHING * wrong


def robust(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """((1 - s) (-log sigmoid z) + s log sigmoid(-z)) / (1 - 2s): Chowdhury et al., 2403.00409.

    Its mean over labels of which a share s is wrong is the mean of `dpo` over the right ones.
    """
    right, wrong = dpo(chosen, rejected, beta), dpo(rejected, chosen, beta)
    return ((1 - SMOOTHING) * right - SMOOTHING * wrong) / (1 - 2 * SMOOTHING)


def capped(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(min(z, 1)): a pair teaches nothing more once its margin is 1."""
    return -F.logsigmoid((beta * (chosen - rejected)).clamp(max=1.0))


# --- forms of both gains --------------------------------------------------------------------------


def jensen_shannon(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(2 (log sigmoid(c) - log sigmoid(r))): f-DPO (Wang et al., arXiv 2309.16240).

    The factor 2 gives it the slope of `dpo` at 0.
    """
    return dpo(F.logsigmoid(beta * chosen), F.logsigmoid(beta * rejected), 2.0)


def forward_kl(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(exp(-r) - exp(-c)): f-DPO with the forward Kullback-Leibler divergence."""
    return dpo(-_exp(-beta * chosen), -_exp(-beta * rejected), 1.0)


def half_alpha(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(2 (exp(-r / 2) - exp(-c / 2))): f-DPO with the alpha divergence of 1/2."""
    return dpo(-_exp(-beta * chosen / 2), -_exp(-beta * rejected / 2), 2.0)


def anchored(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(z) - eta · c: DPO with fine-tuning on the chosen (RPO, Liu et al., 2405.16436).

    Iterative RPO (Pang et al., 2404.19733) has the same sum with another weight.
    """
    return dpo(chosen, rejected, beta) - ANCHOR * beta * chosen


def asymmetric(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(c - k r): a weaker push on the rejected (3D-properties, arXiv 2406.07327)."""
    return dpo(chosen, LOSER * rejected, beta)


def nca(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(c) - (log sigmoid(-c) + log sigmoid(-r)) / 2: NCA, arXiv 2402.05369."""
    c, r = beta * chosen, beta * rejected
    return -F.logsigmoid(c) - (F.logsigmoid(-c) + F.logsigmoid(-r)) / 2


def sppo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """(c - 1/2)² + (r + 1/2)²: SPPO (Wu et al., arXiv 2405.00675) on one pair."""
    return (beta * chosen - 0.5).square() + (beta * rejected + 0.5).square()


def kto(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """(1 - sigmoid(c)) + sigmoid(r): KTO (Ethayarajh et al., arXiv 2402.01306), its z0 at 0.

    A sum over the sides, so a side may stand alone. APO-zero (arXiv 2408.06266) is the same.
    """
    return (1 - torch.sigmoid(beta * chosen)) + torch.sigmoid(beta * rejected)


def bco(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(c) - log sigmoid(-r): BCO (Jung et al., arXiv 2404.04656), its shift at 0.

    A sum over the sides, so a side may stand alone.
    """
    return -F.logsigmoid(beta * chosen) - F.logsigmoid(-beta * rejected)


def _exp(value: Tensor) -> Tensor:
    return value.clamp(max=MOST_EXPONENT).exp()


FORMS: dict[str, Form] = {
    "dpo": dpo,
    "ipo": ipo,
    "hinge": hinge,
    "linear": linear,
    "smoothed": smoothed,
    "robust": robust,
    "capped": capped,
    "jensen_shannon": jensen_shannon,
    "forward_kl": forward_kl,
    "half_alpha": half_alpha,
    "anchored": anchored,
    "asymmetric": asymmetric,
    "nca": nca,
    "sppo": sppo,
    "kto": kto,
    "bco": bco,
}


# --- how much a pair counts ----------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """What a pick says beyond "better": three numbers a pair, each (B,); None counts all alike.

    inner: multiplies both gains: how sure the artist was (SmPO, arXiv 2506.02698, eq. 9: 2a - 1,
        so a tie teaches nothing).
    offset: is taken from the margin z: a margin that is demanded (ODPO, arXiv 2402.10571), or what
        another taste already explains (MODPO, arXiv 2310.03708).
    outer: multiplies the loss (RankDPO, arXiv 2410.18013).
    alone: (B,) bool: one of the two sides is absent, and its gain 0. The loss is then that of
        `of_sides`.
    """

    inner: Tensor | None = None
    offset: Tensor | None = None
    outer: Tensor | None = None
    alone: Tensor | None = None

    def at(self, pairs: Tensor, device: torch.device) -> Counts:
        """Those of the pairs with these indices (M,), on a device; an index may repeat."""
        numbers = {name: value for name, value in vars(self).items() if value is not None}
        return Counts(**{name: value[pairs].to(device) for name, value in numbers.items()})


ALIKE = Counts()


def losses(form: Form, chosen: Tensor, rejected: Tensor, beta: float, counts: Counts) -> Tensor:
    """outer · form(inner · c - offset, inner · r), each (B,)."""
    if counts.inner is not None:
        chosen, rejected = counts.inner * chosen, counts.inner * rejected
    if counts.offset is not None:
        chosen = chosen - counts.offset / beta
    loss = form(chosen, rejected, beta)
    if counts.alone is not None:
        loss = torch.where(counts.alone, of_sides(form)(chosen, rejected, beta), loss)
    return loss if counts.outer is None else counts.outer * loss


def of_sides(form: Form) -> Form:
    """The form that teaches a side alone: `form` itself if it is a sum over the sides, else `bco`.

    `bco` has the slopes of `dpo` at 0, so that a side alone pulls as hard as a side of a pair.
    """
    return form if form in (kto, bco) else bco


def balance(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Weights (B,) of sides alone, from which of them are `chosen` and which `rejected`, (B,) bool.

    Both kinds have the same sum, and all weights of sides alone the mean 1; a pair has 1. KTO's
    paper advises this of unequal numbers (arXiv 2402.01306). If one kind prevailed, what all
    pictures share would be learned with it.
    """
    weights = torch.ones(len(chosen))
    total = chosen.sum() + rejected.sum()
    for kind in (chosen, rejected):
        weights[kind] = total / (2 * kind.sum())
    return weights


# --- lists ---------------------------------------------------------------------------------------


def plackett_luce(gains: Tensor, beta: float) -> Tensor:
    """-log of the probability of an order, (G,), where picture i has the odds exp(beta · gain).

    gains: (G, K), the best first. Plackett (1975); with K = 2 it is `dpo`.
    """
    odds = beta * gains
    rest = odds.flip(1).logcumsumexp(1).flip(1)  # of each picture and those after it
    return (rest - odds)[:, :-1].sum(1)


def best_of(gains: Tensor, beta: float) -> Tensor:
    """-log softmax of the first of K pictures, (G,): only the best of a list was named."""
    return -(beta * gains).log_softmax(1)[:, 0]


def rank_weights(wins: Tensor) -> Tensor:
    """RankDPO's weight of every pair of a list, (K, K): Karthik et al., arXiv 2410.18013, eq. 6.

    wins: (K,) the share of the others that each picture beats, the best first. The weight of i and
    j is |2^wins_i - 2^wins_j| · |1 / log(1 + i) - 1 / log(1 + j)|, ranks counted from 1. The rank
    is the true one, as in the paper's Algorithm 2; its Figure 2 says the model's own.
    """
    discount = 1 / torch.log(torch.arange(len(wins), dtype=wins.dtype) + 2)
    gain = 2.0**wins
    return (gain[:, None] - gain).abs() * (discount[:, None] - discount).abs()
