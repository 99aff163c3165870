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
from dataclasses import dataclass, replace

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


def seppo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(c - s r), s the sign of c: SePPO (Zhang et al., arXiv 2410.05255, eq. 8).

    For a rejected side that nobody judged: only where the policy already makes the chosen one
    likelier than the reference does is it taken for worse, elsewhere it is learned from too.
    """
    return dpo(chosen, chosen.detach().sign() * rejected, beta)


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
    "seppo": seppo,
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
    lists: (B,) whole numbers: pairs of one number have the same chosen side, and are the choice of
        it from a list. The loss of several is then that of `of_lists`.
    """

    inner: Tensor | None = None
    offset: Tensor | None = None
    outer: Tensor | None = None
    alone: Tensor | None = None
    lists: Tensor | None = None

    def at(self, pairs: Tensor, device: torch.device) -> Counts:
        """Those of the pairs with these indices (M,), on a device; an index may repeat."""
        numbers = {name: value for name, value in vars(self).items() if value is not None}
        return Counts(**{name: value[pairs].to(device) for name, value in numbers.items()})


ALIKE = Counts()


def beside(counts: Counts, chosen: Tensor, rejected: Tensor, beta: float, share: float) -> Counts:
    """The counts of a taste that is learned beside another: MODPO (Zhou et al., 2310.03708, eq. 8).

    chosen, rejected: the gains under the other taste, so that R = beta · (chosen - rejected) is the
    margin that it explains; share: its weight w. The form then sees (z - w R) / (1 - w).
    """
    own = 1 - share
    inner = 1 if counts.inner is None else counts.inner
    offset = 0 if counts.offset is None else counts.offset
    explained = beta * (chosen - rejected)
    return replace(
        counts,
        inner=torch.ones_like(chosen) * inner / own,
        offset=offset + explained * share / own,
    )


def losses(form: Form, chosen: Tensor, rejected: Tensor, beta: float, counts: Counts) -> Tensor:
    """outer · form(inner · c - offset, inner · r), each (B,)."""
    if counts.inner is not None:
        chosen, rejected = counts.inner * chosen, counts.inner * rejected
    if counts.offset is not None:
        chosen = chosen - counts.offset / beta
    loss = form(chosen, rejected, beta)
    if counts.lists is not None:
        loss = of_lists(beta * (chosen - rejected), counts.lists, loss)
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


def of_lists(margins: Tensor, lists: Tensor, loss: Tensor) -> Tensor:
    """The losses (B,) of pairs, of which those of one list are the choice of one side from many.

    margins: z of each pair; lists: which list it is of; loss: what stands where it is the only one.
    A list's loss is log(1 + sum of exp(-z)), the -log softmax of the chosen side, in equal parts in
    its pairs. Over all lists of an order it is -log of its probability where picture i has the odds
    exp(beta · gain) (Plackett, 1975; for preferences in arXiv 2305.18290, appendix A.3).
    """
    _, place, sizes = lists.unique(return_inverse=True, return_counts=True)
    most = margins.new_zeros(len(sizes)).scatter_reduce(0, place, -margins.detach(), "amax")
    terms = (-margins - most[place]).exp()
    whole = most + (torch.exp(-most).index_add(0, place, terms)).log()
    return torch.where(sizes[place] > 1, (whole / sizes)[place], loss)


def rank_weights(wins: Tensor) -> Tensor:
    """RankDPO's weight of every pair of a list, (K, K): Karthik et al., arXiv 2410.18013, eq. 6.

    wins: (K,) the share of the others that each picture beats. The weight of i and j is
    |2^wins_i - 2^wins_j| · |1 / log(1 + rank_i) - 1 / log(1 + rank_j)|, ranks counted from 1; those
    that win alike share the mean of their discounts 1 / log. The rank is the true one, as in the
    paper's Algorithm 2; its Figure 2 says the model's own.
    """
    discounts = 1 / torch.log(torch.arange(len(wins), dtype=wins.dtype) + 2)
    order = wins.argsort(descending=True, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(wins))
    same = (wins[:, None] == wins).to(wins.dtype)
    discount = same @ discounts[place] / same.sum(1)
    gain = 2.0**wins
    return (gain[:, None] - gain).abs() * (discount[:, None] - discount).abs()
