"""Which kind of question reveals most about a taste, measured without training.

    python launch.py bench questions --json FILE

The gradient of a click is that of (error of the clicked picture - error of the others) for an
untrained adapter. The sum over some clicks is a direction. It agrees with an unseen pair if it
makes the better picture likelier. The share of agreement measures a kind of question: the better of
two, the best of more, an order. Clicks use some of the prompts and unseen pairs all others, over
many random splits.

"weighed" is an upper bound for training: ridge regression reduces the weight of features that pairs
share by chance, such as their grounds. It measures the information in the clicks; `bench clicks`
also shows the losses of training.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from studio import models
from studio.bench import clicks, timing
from studio.bench.curves import ARTISTS
from studio.bench.held_out import split_prompts
from studio.bench.research.gradients import up_projections
from studio.engine import recogniser
from studio.engine.estimators import velocity_errors
from studio.engine.trajectory import PairBatch, Trajectory
from studio.settings import TrainingSettings

PICTURES = 4  # of a prompt
CLICKS = (13, 26, 51)  # of 16, 32 and 64, without the fifth that is held out
SPLITS = 40
RIDGE = 1.0  # in units of a pair's own square

# (scores of a prompt's pictures, their squared distances) to the (better, worse) pairs of an answer
Question = Callable[[list[float], Tensor], list[tuple[int, int]]]


def best_of(count: int) -> Question:
    def ask(scores: list[float], apart: Tensor) -> list[tuple[int, int]]:
        best, *others = _in_order(scores[:count])
        return [(best, other) for other in others]

    return ask


def better_of_the_most_different(scores: list[float], apart: Tensor) -> list[tuple[int, int]]:
    one, other = divmod(int(apart.argmax()), len(apart))
    return [(one, other) if scores[one] > scores[other] else (other, one)]


def best_and_worst(scores: list[float], apart: Tensor) -> list[tuple[int, int]]:
    best, *between, worst = _in_order(scores)
    return [
        (best, worst),
        *((best, each) for each in between),
        *((each, worst) for each in between),
    ]


def whole_order(scores: list[float], apart: Tensor) -> list[tuple[int, int]]:
    return list(itertools.combinations(_in_order(scores), 2))


def rank_weights() -> list[float]:
    """RankDPO's weights of a whole order's pairs (arXiv 2410.18013): |gain - gain| x |1/D - 1/D|.

    D = log(1 + rank), from rank 1 for the best, and the gain is 2^g - 1. An order has no scores, so
    g falls evenly from 1 to 0. An untrained adapter has no order of its own.
    """
    gains = [2 ** (1 - rank / (PICTURES - 1)) - 1 for rank in range(PICTURES)]
    discounts = [1 / math.log(2 + rank) for rank in range(PICTURES)]
    return [
        abs(gains[one] - gains[other]) * abs(discounts[one] - discounts[other])
        for one, other in itertools.combinations(range(PICTURES), 2)
    ]


def _in_order(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: -scores[index])


RANKED = "all 4 in order, pairs weighed by place"
QUESTIONS: dict[str, Question] = {
    "the better of 2": best_of(2),
    "the better of the 2 most different of 4": better_of_the_most_different,
    "the best of 3": best_of(3),
    "the best of 4": best_of(4),
    "the best and the worst of 4": best_and_worst,
    "all 4 in order": whole_order,
    RANKED: whole_order,
}


def picture_errors(
    denoiser: models.Denoiser,
    chains: list[Trajectory],
    settings: TrainingSettings,
    draws: int,
    draw: torch.Generator,
) -> Tensor:
    """(pictures,): the mean error of each picture of a prompt, for the denoiser's present state.

    At `draws` timesteps of the training's fraction; all pictures have the same noise.
    """
    batch = PairBatch.of([(chains[0], other) for other in chains[1:]])
    count = denoiser.scheduler.config.num_train_timesteps
    share = (torch.arange(draws) + torch.rand(draws, generator=draw)) / draws
    timesteps = ((1 - settings.timestep_fraction * (1 - share)) * count).long().clamp(max=count - 1)
    noise = torch.randn((1, draws, *batch.latents.shape[2:]), generator=draw)
    return velocity_errors(
        denoiser,
        batch,
        list(range(len(chains))),
        timesteps.expand(len(chains), -1),
        noise.expand(len(chains), *noise.shape[1:]),
    ).mean(1)


def picture_gradients(
    denoiser: models.Denoiser, prompts: list[list[Trajectory]], draws: int, seed: int = 0
) -> Tensor:
    """(prompts, pictures, parameters): the gradient of each picture's error.

    Without the mean over a prompt's pictures, about which clicks contain no information.
    """
    settings = TrainingSettings(seed=seed)
    denoiser.adapters.new(settings)
    parameters = up_projections(denoiser)
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for chains in prompts:
        errors = picture_errors(denoiser, chains, settings, draws, draw)
        values = [torch.autograd.grad(error, parameters, retain_graph=True) for error in errors]
        own = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in values])
        rows.append((own - own.mean(0)).cpu())
    return torch.stack(rows)


def agreement(
    gram: Tensor,
    clicked: Tensor,
    unseen: Tensor,
    ridge: float | None,
    counts: Tensor | None = None,
) -> float:
    """The share of `unseen` pairs that the direction of the `clicked` ones agrees with.

    gram: (pictures, pictures), products of the pictures' gradients. clicked, unseen: (pairs, 2),
    the better picture and the worse. A ridge of None sums the clicked pairs. counts: (clicked,),
    their weights; None: equal weights.
    """
    better, worse = clicked.T
    towards = gram[:, better] - gram[:, worse]  # (pictures, clicked)
    counts = torch.ones(len(clicked)) if counts is None else counts / counts.mean()
    weights = counts
    if ridge is not None:
        own = towards[better] - towards[worse]
        penalty = ridge * own.diagonal().mean() * (1 / counts).diag()
        weights = torch.linalg.solve(own + penalty, torch.ones(len(own)))
    liking = towards @ weights
    return float((liking[unseen[:, 0]] > liking[unseen[:, 1]]).float().mean())


def judge(
    gram: Tensor,
    scores: list[list[float]],
    question: Question,
    clicks_count: int,
    ridge: float | None,
    weights: list[float] | None = None,  # of the pairs of an answer
) -> float:
    """Mean agreement over `SPLITS` random choices of the clicked prompts."""
    squares = gram.diagonal()
    apart = squares[:, None] + squares[None] - 2 * gram

    def pairs_of(prompt: int, ask: Question) -> Tensor:
        own = slice(prompt * PICTURES, (prompt + 1) * PICTURES)
        return torch.tensor(ask(scores[prompt], apart[own, own])) + prompt * PICTURES

    asked = [pairs_of(prompt, question) for prompt in range(len(scores))]
    known = [pairs_of(prompt, whole_order) for prompt in range(len(scores))]
    draw = torch.Generator().manual_seed(0)
    counts = None if weights is None else torch.tensor(weights).repeat(clicks_count)
    shares = []
    for _ in range(SPLITS):
        order = torch.randperm(len(scores), generator=draw).tolist()
        clicked = torch.cat([asked[prompt] for prompt in order[:clicks_count]])
        unseen = torch.cat([known[prompt] for prompt in order[clicks_count:]])
        shares.append(agreement(gram, clicked, unseen, ridge, counts))
    return statistics.mean(shares)


def table(rows: list[dict]) -> str:
    """Markdown: means over the artists."""
    counts = sorted({row["clicks"] for row in rows})
    lines = [
        f"| question | {' | '.join(f'{n} clicks, weighed' for n in counts)} | "
        f"{' | '.join(f'{n}, summed' for n in counts)} |",
        "|" + "---|" * (1 + 2 * len(counts)),
    ]
    for question in QUESTIONS:
        by_clicks = {row["clicks"]: row for row in rows if row["question"] == question}
        cells = [
            f"{statistics.mean(by_clicks[count][how].values()):.3f}"
            for how in ("weighed", "summed")
            for count in counts
        ]
        lines.append(f"| {question} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench questions", description=__doc__)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--draws", type=int, default=4, help="timesteps per picture")
    parser.add_argument("--artists", nargs="*", default=ARTISTS)
    parser.add_argument("--clicks", nargs="*", type=int, default=CLICKS)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    if not 0 < max(args.clicks, default=0) < args.prompts or args.draws < 1:
        parser.error("clicks, more prompts than clicks, and a timestep are needed")
    artists = {name: clicks.load_artist(f"studio.bench.artists:{name}") for name in args.artists}
    denoiser = clicks.load_base("starter")
    settings = clicks.session_settings("diffusion_dpo", {}).sampling
    names, _ = split_prompts(recogniser.load(), seed=0)
    prompts = [names[number % len(names)] for number in range(args.prompts)]
    asked = clicks.draw_asked(denoiser, prompts, range(args.prompts), settings, PICTURES)
    chains = [question.chains for question in asked]
    gradients = picture_gradients(denoiser, chains, args.draws).flatten(0, 1)
    gram = gradients @ gradients.T
    scores = {
        name: [
            [artist(image, prompt) for image in question.images]
            for question, prompt in zip(asked, prompts, strict=True)
        ]
        for name, artist in artists.items()
    }
    rows = [
        {
            "question": name,
            "clicks": count,
            **{
                how: {
                    artist: judge(gram, scores[artist], ask, count, ridge, weights)
                    for artist in artists
                }
                for how, ridge in (("summed", None), ("weighed", RIDGE))
            },
        }
        for name, ask in QUESTIONS.items()
        for weights in [rank_weights() if name == RANKED else None]
        for count in args.clicks
    ]
    print(table(rows))
    timing.write(args.json, {"prompts": args.prompts, "draws": args.draws, "rows": rows})
    return 0
