"""Ablations: published ideas for preference training, each as one change of the default.

    python launch.py bench ablations --jobs 2 --rows FILE

Every ablation trains on the same number of clicks of the same simulated artist, most of them on the
same pairs of pictures. There are two measures. The agreement is how often the adapter makes the
artist's preferred picture likelier, among pictures of unseen prompts: a fine measure of the learned
direction. The second is the comparison of `bench clicks`. Each run is stored as it ends; a later
call runs only the missing ones.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from studio import models
from studio.bench import clicks, runs
from studio.bench.artists import Artist
from studio.bench.clicks import Asked, Click
from studio.bench.curves import ARTISTS
from studio.bench.held_out import (
    compare,
    draw_held_out,
    draw_held_out_by_base,
    split_prompts,
    summarise,
)
from studio.bench.research.estimators import Flipped, Inverted, Mirrored, MovedReference, Opposed
from studio.bench.research.questions import picture_errors
from studio.bench.runs import Row
from studio.engine import recogniser, sampling
from studio.engine.estimators import Estimator, NoisedPictures
from studio.engine.objective import Objective
from studio.engine.training import Metrics, Training
from studio.engine.trajectory import PairBatch, Trajectory
from studio.maths.objectives import dpo
from studio.maths.schedules import step_mean
from studio.settings import SamplingSettings, TrainingSettings

CLICKS = 51  # of 64, without the fifth that is held out
UNSEEN = 40  # prompts without clicks
PICTURES = 4  # of each prompt; most ablations use the first two
SHARED_STEPS = 3  # first steps of the chain that both pictures share
CAP = 1.0  # of beta x margin, beyond which a pair has no gradient
JUDGED_AT = 8  # timesteps for the score of an unseen picture


# --- forms of the loss ---


def capped(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """A pair with a margin beyond `CAP` has no gradient."""
    return -F.logsigmoid((beta * (chosen - rejected)).clamp(max=CAP))


def anchored(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """An extra term makes the chosen picture likelier (RPO, arXiv 2404.19733)."""
    return dpo(chosen, rejected, beta) - 0.5 * beta * chosen


# --- rounds ---


@dataclass(frozen=True)
class ActiveRound:
    """A round of an ablation. Its questions are the pool's first `count`; the rest is unseen."""

    denoiser: models.Denoiser
    artist: Artist
    pool: list[Asked]
    count: int
    sampling: SamplingSettings
    settings: TrainingSettings

    def scores(self, asked: Asked) -> list[float]:
        return [self.artist(image, asked.chains[0].prompt) for image in asked.images]

    def pick(self, chains: Sequence[Trajectory]) -> Click:
        """The artist's pick of two pictures; empty for a tie."""
        asked = Asked(list(chains), sampling.images(self.denoiser, list(chains)))
        labelled = clicks.label([asked], self.artist, noise=0.0, slips=random.Random(0))
        return [pair for click in labelled for pair in click]

    def clicks(self, prompts: slice | None = None) -> Click:
        """The artist's picks of the first two pictures of each prompt."""
        asked = self.pool[: self.count][prompts or slice(None)]
        return [pair for question in asked for pair in self.pick(question.chains[:2])]

    def training(
        self,
        pairs: Click,
        estimator: type[Estimator] = NoisedPictures,
        form: Callable[..., Tensor] = dpo,
        **changes: object,
    ) -> Training:
        """A round over the pairs with changed settings. The form is called with the gains of chosen
        and rejected, and beta."""
        self.denoiser.adapters.remove()
        settings = replace(self.settings, **changes)
        objective = Objective(estimator, form)
        return Training(self.denoiser, PairBatch.of(pairs), settings, objective=objective)

    def learn(self, pairs: Click, **changes: object) -> None:
        """Run such a round to its end."""
        for _ in self.training(pairs, **changes):
            pass


def learned(**changes: object) -> Callable[[ActiveRound], None]:
    """Train on the usual clicks with another estimator, form or settings."""

    def learn(active: ActiveRound) -> None:
        active.learn(active.clicks(), **changes)

    return learn


def moved_reference(active: ActiveRound) -> None:
    """The reference of the second half of the round is the policy in the middle."""
    for _ in moving_at_half(active.training(active.clicks(), MovedReference)):
        pass


def moving_at_half(training: Training) -> Iterator[Metrics]:
    """The updates of a training with `MovedReference`, moved in the middle."""
    for metrics in training:
        yield metrics
        if metrics.update == metrics.updates // 2:
            training.estimator.move()


def coin(active: ActiveRound) -> None:
    """Random picks without a taste: a control for the effect of training itself."""
    toss = random.Random(0)
    pairs = [pair if toss.random() < 0.5 else pair[::-1] for pair in active.clicks()]
    active.learn(pairs)


def no_replay(active: ActiveRound) -> None:
    """A second round continues the first one's adapter, with only the second half of the picks."""
    half = active.count // 2
    active.learn(active.clicks(slice(half)), target_shift=None)
    first_adapter = active.denoiser.adapters.state()
    second = Training(
        active.denoiser, PairBatch.of(active.clicks(slice(half, None))), active.settings
    )
    active.denoiser.adapters.set_state(first_adapter)
    for _ in second:
        pass


def least_sure(active: ActiveRound) -> None:
    """Active learning: in the second half, the pair of each prompt with the smallest margin."""
    half = active.count // 2
    known = active.clicks(slice(half))
    active.learn(known)
    for asked in active.pool[half : active.count]:
        gains = picture_gains(active.denoiser, asked.chains, active.settings)
        pairs = list(itertools.combinations(range(PICTURES), 2))
        left, right = min(pairs, key=lambda pair: abs(float(gains[pair[0]] - gains[pair[1]])))
        known = known + active.pick([asked.chains[left], asked.chains[right]])
    active.learn(known)


def from_liked_noise(active: ActiveRound) -> None:
    """In the second half, pairs start from chosen pictures' noise (HERO, arXiv 2410.05116)."""
    half = active.count // 2
    known = active.clicks(slice(half))
    liked = [chosen.seed for chosen, _ in known]
    for number, asked in enumerate(active.pool[half : active.count]):
        start, walks = liked[number % len(liked)], [7_000_000 + 2 * number, 7_000_001 + 2 * number]
        known = known + active.pick(_draw_two(active, asked, [start] * 2, walks))
    active.learn(known)


def own_noise(active: ActiveRound) -> None:
    """The two pictures of a pair start from different noise."""
    pairs: Click = []
    for number, asked in enumerate(active.pool[: active.count]):
        own = [8_000_000 + 2 * number, 8_000_001 + 2 * number]
        pairs += active.pick(_draw_two(active, asked, own, own))
    active.learn(pairs)


def shared_chain(active: ActiveRound, **changes: object) -> None:
    """The two pictures of a pair also share the first steps."""
    pairs: Click = []
    for number, asked in enumerate(active.pool[: active.count]):
        first = asked.chains[0]
        with active.denoiser.adapters.off():
            second = branched(active.denoiser, first, SHARED_STEPS, 9_100_000 + number)
        pairs += active.pick([first, second])
    active.learn(pairs, **changes)


def shared_chain_half(active: ActiveRound) -> None:
    """The same, trained at the noisier half of the timesteps, where such pairs differ."""
    shared_chain(active, timestep_fraction=0.5)


def _draw_two(
    active: ActiveRound, asked: Asked, starts: list[int], walks: list[int]
) -> list[Trajectory]:
    """Draw two more pictures of a prompt with the base."""
    prompts = [asked.chains[0].prompt] * 2
    with active.denoiser.adapters.off():
        return sampling.sample(active.denoiser, prompts, starts, active.sampling, walks)


@torch.no_grad()
def branched(denoiser: models.Denoiser, chain: Trajectory, shared: int, seed: int) -> Trajectory:
    """Another continuation of a chain after its first `shared` steps, for the denoiser's present
    state."""
    settings = chain.settings
    schedule = denoiser.schedule(settings)
    text = denoiser.text.embed([chain.prompt], settings.clip_skip)
    empty = denoiser.text.embed_negative(settings.negative_prompt, 1, settings.clip_skip)
    draw = torch.Generator().manual_seed(seed)
    latents = list(chain.latents[: shared + 1])
    for step in range(shared, settings.steps):
        levels = schedule.step(step, settings.eta)
        latent = latents[-1][None].to(denoiser.device)
        predicted = denoiser.predict_guided(
            latent, schedule.timesteps[step][None], text, empty, settings.guidance
        )
        mean = step_mean(latent, predicted, levels)[0].cpu()
        latents.append(mean + float(levels.s) * torch.randn(mean.shape, generator=draw))
    return replace(chain, latents=torch.stack(latents), seed=seed)


ABLATIONS: dict[str, Callable[[ActiveRound], None]] = {
    "the default": learned(),
    "picks by a coin": coin,
    "noise and its mirror image": learned(estimator=Mirrored),
    "each other look flipped": learned(estimator=Flipped),
    "mirrored noise for the rejected": learned(estimator=Opposed),
    "noise from DDIM inversion": learned(estimator=Inverted),
    "a cap on the margin": learned(form=capped),
    "an anchor on the chosen": learned(form=anchored),
    "reference moved in the middle": moved_reference,
    "old picks not replayed": no_replay,
    "asked where it is least sure": least_sure,
    "asked from the noise of liked ones": from_liked_noise,
    "noise of its own for each": own_noise,
    "three steps of the chain shared": shared_chain,
    "the same, noisier half": shared_chain_half,
    "rank 2": learned(rank=2, alpha=2.0),
    "rank 32": learned(rank=32, alpha=32.0),
}


# --- measures ---


@torch.no_grad()
def picture_gains(
    denoiser: models.Denoiser, chains: list[Trajectory], settings: TrainingSettings
) -> Tensor:
    """(pictures,): the gain of each picture of a prompt: its score under the adapter minus that
    under the base."""

    def errors() -> Tensor:
        draw = torch.Generator().manual_seed(1)
        return picture_errors(denoiser, chains, settings, JUDGED_AT, draw)

    tuned = errors()
    with denoiser.adapters.off():
        return 0.5 * (errors() - tuned)


def agreement(active: ActiveRound) -> float:
    """The share of pairs of unseen pictures that the adapter orders like the artist."""
    agrees = []
    for asked in active.pool[active.count :]:
        scores = active.scores(asked)
        gains = picture_gains(active.denoiser, asked.chains, active.settings).tolist()
        for left, right in itertools.combinations(range(len(scores)), 2):
            if scores[left] != scores[right]:
                agrees.append((scores[left] > scores[right]) == (gains[left] > gains[right]))
    return statistics.mean(agrees)


@cache
def _pool(count: int, unseen: int) -> list[Asked]:
    """Pictures of the base, drawn once per process."""
    session = clicks.session_settings("diffusion_dpo", {})
    prompts, _ = split_prompts(recogniser.load(), seed=0)
    names = tuple(prompts[number % len(prompts)] for number in range(count + unseen))
    seeds = tuple(1_000_000 + number for number in range(len(names)))
    base = clicks.load_base(session.base_model)
    return clicks.draw_asked_by_base(base, names, seeds, session.sampling, PICTURES)


def begin(artist: str, count: int, unseen: int, changes: dict[str, object]) -> ActiveRound:
    """A round with the untrained starter; `changes`: of the default's settings."""
    session = clicks.session_settings("diffusion_dpo", changes)
    denoiser = clicks.load_base(session.base_model)
    denoiser.adapters.remove()
    return ActiveRound(
        denoiser,
        clicks.load_artist(f"studio.bench.artists:{artist}"),
        _pool(count, unseen),
        count,
        session.sampling,
        session.training,
    )


def measure(active: ActiveRound) -> Row:
    """The artist's comparison of tuned and base pictures, as in `bench clicks`."""
    judge = recogniser.load()
    _, held_out = split_prompts(judge, seed=0)
    base = draw_held_out_by_base(active.denoiser, held_out, active.sampling)
    tuned = draw_held_out(active.denoiser, held_out, active.sampling)
    return summarise([compare(base, tuned, held_out, judge, active.artist)])


def run(
    artist: str, ablation: str, count: int, unseen: int, changes: dict[str, object], threads: int
) -> list[Row]:
    """The figures of one ablation with one artist."""
    torch.set_num_threads(threads)
    active = begin(artist, count, unseen, changes)
    ABLATIONS[ablation](active)
    figures = measure(active)
    return [{"artist": artist, "ablation": ablation, "agreement": agreement(active), **figures}]


def table(rows: list[Row]) -> str:
    """Markdown: a line per ablation, a column per artist, and the mean if all artists were run."""
    artists = sorted({row["artist"] for row in rows})
    lines = [
        f"| | {' | '.join(artist.replace('_', ' ') for artist in artists)} | mean |",
        "|" + "---|" * (len(artists) + 2),
    ]
    for ablation in ABLATIONS:
        by_artist = {row["artist"]: row for row in rows if row["ablation"] == ablation}
        if not by_artist:
            continue
        cells = [_cell([by_artist[artist]]) if artist in by_artist else "" for artist in artists]
        mean = _cell(list(by_artist.values())) if len(by_artist) == len(artists) else ""
        lines.append(f"| {ablation} | {' | '.join(cells)} | {mean} |")
    return "\n".join(lines)


def _cell(rows: list[Row]) -> str:
    names = ("agreement", "win_rate", "shift_sd", "object_accuracy_tuned")
    agrees, wins, shift, objects = (statistics.mean(row[name] for row in rows) for name in names)
    return f"{agrees:.3f}; {wins:.2f}, {shift:+.2f} sd, {objects:.0%}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench ablations", description=__doc__)
    parser.add_argument("--artists", nargs="*", choices=ARTISTS, default=ARTISTS)
    names = tuple(ABLATIONS)
    parser.add_argument("--ablations", nargs="*", choices=names, default=names)
    parser.add_argument("--clicks", type=int, default=CLICKS)
    parser.add_argument("--unseen", type=int, default=UNSEEN, help="prompts for the agreement")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs")
    parser.add_argument("--rows", type=Path, required=True, help="file of the stored runs")
    args = parser.parse_args(argv)
    if args.clicks < 4 or args.unseen < 1:
        parser.error("at least four clicks and one unseen prompt are needed")
    changes = {key: clicks.number(value) for key, _, value in (s.partition("=") for s in args.set)}
    known = {(row["artist"], row["ablation"]) for row in runs.read(args.rows)}
    todo = [
        (*pair, args.clicks, args.unseen, changes)
        for pair in itertools.product(args.artists, args.ablations)
        if pair not in known
    ]
    for [row] in runs.gather(run, todo, args.jobs, args.rows):
        print(f"{row['artist']}, {row['ablation']}: {_cell([row])}", flush=True)
    print(table(runs.read(args.rows)))
    return 0
