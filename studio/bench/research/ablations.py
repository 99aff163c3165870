"""What others found to learn more from a preference, each as one change of the default.

    python launch.py bench ablations --jobs 2 --rows FILE

Every lead learns from as many clicks of the same simulated artist, most from the very same pairs of
pictures. Then two things are asked. How often the adapter thinks likelier what the artist prefers
among pictures of prompts that no click was about: the direction that was learned, finely measured.
And, as in `bench clicks`, what the tuned model draws. Each run is kept as it ends; a later call
goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from studio import models
from studio.bench import clicks, runs
from studio.bench.clicks import Artist, Asked, Click
from studio.bench.curves import ARTISTS
from studio.bench.research.questions import picture_errors
from studio.bench.runs import Row
from studio.engine import recogniser, sampling
from studio.engine.estimators import Estimator, NoisedPictures
from studio.engine.objective import Objective
from studio.engine.training import Metrics, Training
from studio.engine.trajectory import PairBatch, Trajectory
from studio.maths.objectives import dpo
from studio.maths.schedules import ddim_step, step_mean
from studio.settings import SamplingSettings, TrainingSettings

TAUGHT = 51  # clicks: what 64 leave when a fifth is held out
UNSEEN = 40  # prompts that no click is about
PICTURES = 4  # of each prompt, of which most leads ask about the first two
SHARED_STEPS = 3  # of the chain, where pairs share its beginning
CAP = 1.0  # of beta x margin, from where on a pair teaches no more
JUDGED_AT = 8  # timesteps that an unseen picture is looked at


# --- what an update looks at ---


class Mirrored(NoisedPictures):
    """Each second draw of a picture has the noise of the first turned round (antithetic)."""

    def inputs(self, groups: list[list[int]], draws: Tensor) -> tuple[Tensor, Tensor]:
        timesteps, noise = super().inputs(groups, draws)
        timesteps[:, 1::2], noise[:, 1::2] = timesteps[:, ::2], -noise[:, ::2]
        return timesteps, noise


class Flipped(NoisedPictures):
    """Each second draw is of the pictures flipped, as tools for fine-tuning do."""

    def __init__(
        self, denoiser: models.Denoiser, batch: PairBatch, settings: TrainingSettings
    ) -> None:
        super().__init__(denoiser, batch, settings)
        flipped = replace(batch, latents=batch.latents.flip(-1))
        self.flipped = NoisedPictures(denoiser, flipped, settings)

    def gains(self, groups: list[list[int]], draws: Tensor) -> tuple[Tensor, Tensor]:
        as_drawn = super().gains(groups, draws[:, ::2])
        flipped = self.flipped.gains(groups, draws[:, 1::2])
        chosen, rejected = (torch.cat(side) for side in zip(as_drawn, flipped, strict=True))
        return chosen, rejected


class _OfPairs(NoisedPictures):
    """The two pictures of a pair noised each in its own way; grids are not for it."""

    def noises(
        self, chosen: list[int], rejected: list[int], timesteps: Tensor, noise: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Timesteps (pairs, D), and the noise of both sides, each (pairs, D, C, h, w)."""
        raise NotImplementedError

    def gains(self, groups: list[list[int]], draws: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [pair for (pair,) in groups]
        sides = self.batch.chosen[pairs].tolist(), self.batch.rejected[pairs].tolist()
        timesteps, noises = self.noises(*sides, *self.inputs(groups, draws))

        def scores() -> list[Tensor]:
            return [
                self.scores(side, timesteps, noise).flatten()
                for side, noise in zip(sides, noises, strict=True)
            ]

        chosen, rejected = scores()
        with torch.no_grad(), self.denoiser.adapters.off():
            base_chosen, base_rejected = scores()
        return chosen - base_chosen, rejected - base_rejected


class Opposed(_OfPairs):
    """The rejected picture with the noise of the chosen one turned round."""

    def noises(self, chosen, rejected, timesteps, noise):
        return timesteps, (noise, -noise)


class Inverted(_OfPairs):
    """Pictures noised by the base's own way to them, backwards (DDIM-InPO, arXiv 2503.18454)."""

    @cached_property
    def ways_back(self) -> tuple[Tensor, Tensor]:
        with self.denoiser.adapters.off():
            return inverted(self.denoiser, self.batch)

    def noises(self, chosen, rejected, timesteps, noise):
        known, noises = self.ways_back
        places = (timesteps[..., None] - known).abs().argmin(-1)
        return known[places], tuple(
            noises[torch.tensor(side)[:, None], places] for side in (chosen, rejected)
        )


class MovedReference(NoisedPictures):
    """`move` makes the reference what has been learned by then."""

    moved_to: list[Tensor] | None = None

    def move(self) -> None:
        self.moved_to = [value.detach().clone() for value in self.denoiser.adapters.parameters()]

    @torch.no_grad()
    def reference_scores(self, pictures: list[int], draws: Tensor, *inputs: Tensor) -> Tensor:
        if self.moved_to is None:
            return super().reference_scores(pictures, draws, *inputs)
        parameters = self.denoiser.adapters.parameters()
        now = [value.detach().clone() for value in parameters]
        try:
            _put(parameters, self.moved_to)
            return self.scores(pictures, *inputs)
        finally:
            _put(parameters, now)


@torch.no_grad()
def _put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


@torch.no_grad()
def inverted(denoiser: models.Denoiser, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """DDIM (arXiv 2010.02502) from the final latents back to noise, prompted and without guidance.

    The timesteps (T,) of the batch's own steps, and (M, T, C, h, w): the noise that, added to a
    picture's final latent, gives where its way back was at that timestep.
    """
    schedule = denoiser.schedule(batch.settings.steps)
    final = batch.latents[:, -1].to(denoiser.device)
    text = denoiser.text.embed(list(batch.prompts), batch.settings.clip_skip)
    latent, found = final, []
    for timestep, alpha_bar, alpha_bar_prev in reversed(
        list(zip(schedule.timesteps, schedule.alpha_bar, schedule.alpha_bar_prev, strict=True))
    ):
        predicted = denoiser.predict_noise(latent, timestep.expand(len(latent)), text)
        latent = step_mean(latent, predicted, ddim_step(alpha_bar_prev, alpha_bar, eta=0.0))
        found.append((latent - alpha_bar.sqrt() * final) / (1 - alpha_bar).sqrt())
    return schedule.timesteps.cpu(), torch.stack(found[::-1], 1).cpu()


# --- what it makes of it ---


def capped(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """A pair that is told apart by far enough teaches no more."""
    return -F.logsigmoid((beta * (chosen - rejected)).clamp(max=CAP))


def anchored(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """The chosen picture is made likelier as well (RPO, arXiv 2404.19733)."""
    return dpo(chosen, rejected, beta) - 0.5 * beta * chosen


# --- a lesson: who teaches whom, and about what ---


@dataclass(frozen=True)
class ActiveRound:
    """The pool is asked about from its front; what follows the first `taught` is never asked."""

    denoiser: models.Denoiser
    artist: Artist
    pool: list[Asked]
    taught: int
    sampling: SamplingSettings
    settings: TrainingSettings

    def scores(self, asked: Asked) -> list[float]:
        return [self.artist(image, asked.chains[0].prompt) for image in asked.images]

    def pick(self, chains: Sequence[Trajectory]) -> Click:
        """Which of two pictures is better; nothing where they are equal."""
        asked = Asked(list(chains), sampling.images(self.denoiser, list(chains)))
        labelled = clicks.label([asked], self.artist, noise=0.0, slips=random.Random(0))
        return [pair for click in labelled for pair in click]

    def clicks(self, prompts: slice | None = None) -> Click:
        """The better of the first two pictures of each prompt."""
        asked = self.pool[: self.taught][prompts or slice(None)]
        return [pair for one in asked for pair in self.pick(one.chains[:2])]

    def training(
        self,
        pairs: Click,
        estimator: type[Estimator] = NoisedPictures,
        form: Callable[..., Tensor] = dpo,
        **changes: object,
    ) -> Training:
        """A round over the pairs, with other settings where `changes` names them. The form is of
        gains of chosen and rejected, and beta."""
        self.denoiser.adapters.remove()
        settings = replace(self.settings, **changes)
        objective = Objective(estimator, partial(form, beta=settings.beta))
        return Training(self.denoiser, PairBatch.of(pairs), settings, objective=objective)

    def learn(self, pairs: Click, **changes: object) -> None:
        """Such a round, to its end."""
        for _ in self.training(pairs, **changes):
            pass


def learned(**changes: object) -> Callable[[ActiveRound], None]:
    """The usual clicks, learned from in another way: `estimator`, `form` or settings."""

    def learn(active: ActiveRound) -> None:
        active.learn(active.clicks(), **changes)

    return learn


def moved_reference(active: ActiveRound) -> None:
    """From the middle of the round on the reference is what had been learned by then."""
    for _ in moving_at_half(active.training(active.clicks(), MovedReference)):
        pass


def moving_at_half(training: Training) -> Iterator[Metrics]:
    """The updates of a training with `MovedReference`, which is moved in the middle."""
    for metrics in training:
        yield metrics
        if metrics.update == metrics.updates // 2:
            training.estimator.move()


def coin(active: ActiveRound) -> None:
    """No taste at all: what is learned by chance, and what that does to pictures."""
    toss = random.Random(0)
    pairs = [pair if toss.random() < 0.5 else pair[::-1] for pair in active.clicks()]
    active.learn(pairs)


def no_replay(active: ActiveRound) -> None:
    """A second round goes on from the first one's adapter, with the new half of the picks only."""
    half = active.taught // 2
    active.learn(active.clicks(slice(half)), target_shift=None)
    first_adapter = active.denoiser.adapters.state()
    second = Training(
        active.denoiser, PairBatch.of(active.clicks(slice(half, None))), active.settings
    )
    active.denoiser.adapters.set_state(first_adapter)
    for _ in second:
        pass


def least_sure(active: ActiveRound) -> None:
    """Half of the pairs are those, of all of their prompt, that the first half says least about."""
    half = active.taught // 2
    known = active.clicks(slice(half))
    active.learn(known)
    for asked in active.pool[half : active.taught]:
        liking = likings(active.denoiser, asked.chains, active.settings)
        pairs = list(itertools.combinations(range(PICTURES), 2))
        one, other = min(pairs, key=lambda pair: abs(float(liking[pair[0]] - liking[pair[1]])))
        known = known + active.pick([asked.chains[one], asked.chains[other]])
    active.learn(known)


def from_liked_noise(active: ActiveRound) -> None:
    """Half of the pairs begin with the noise that a liked picture began with (HERO, 2410.05116)."""
    half = active.taught // 2
    known = active.clicks(slice(half))
    liked = [chosen.seed for chosen, _ in known]
    for number, asked in enumerate(active.pool[half : active.taught]):
        start, walks = liked[number % len(liked)], [7_000_000 + 2 * number, 7_000_001 + 2 * number]
        known = known + active.pick(_drawn(active, asked, [start] * 2, walks))
    active.learn(known)


def own_noise(active: ActiveRound) -> None:
    """The two pictures of a pair begin with noise of their own."""
    pairs: Click = []
    for number, asked in enumerate(active.pool[: active.taught]):
        own = [8_000_000 + 2 * number, 8_000_001 + 2 * number]
        pairs += active.pick(_drawn(active, asked, own, own))
    active.learn(pairs)


def shared_chain(active: ActiveRound, **changes: object) -> None:
    """The two pictures of a pair share the first steps too."""
    pairs: Click = []
    for number, asked in enumerate(active.pool[: active.taught]):
        first = asked.chains[0]
        with active.denoiser.adapters.off():
            second = branched(active.denoiser, first, SHARED_STEPS, 9_100_000 + number)
        pairs += active.pick([first, second])
    active.learn(pairs, **changes)


def shared_chain_half(active: ActiveRound) -> None:
    """The same, learned from the noisier half of the timesteps, where such pairs differ."""
    shared_chain(active, timestep_fraction=0.5)


def _drawn(
    active: ActiveRound, asked: Asked, starts: list[int], walks: list[int]
) -> list[Trajectory]:
    """Two more pictures of a prompt, by the base."""
    prompts = [asked.chains[0].prompt] * 2
    with active.denoiser.adapters.off():
        return sampling.sample(active.denoiser, prompts, starts, active.sampling, walks)


@torch.no_grad()
def branched(denoiser: models.Denoiser, chain: Trajectory, shared: int, seed: int) -> Trajectory:
    """Another way on from where a chain is after its first `shared` steps, as it is switched."""
    settings = chain.settings
    schedule = denoiser.schedule(settings.steps)
    text = denoiser.text.embed([chain.prompt], settings.clip_skip)
    empty = denoiser.text.embed_negative(settings.negative_prompt, 1, settings.clip_skip)
    draw = torch.Generator().manual_seed(seed)
    latents = list(chain.latents[: shared + 1])
    for step in range(shared, settings.steps):
        taken = schedule.step(step, settings.eta)
        latent = latents[-1][None].to(denoiser.device)
        predicted = denoiser.predict_guided_noise(
            latent, schedule.timesteps[step][None], text, empty, settings.guidance
        )
        mean = step_mean(latent, predicted, taken)[0].cpu()
        latents.append(mean + float(taken.s) * torch.randn(mean.shape, generator=draw))
    return replace(chain, latents=torch.stack(latents), seed=seed)


LEADS: dict[str, Callable[[ActiveRound], None]] = {
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


# --- what came of it ---


@torch.no_grad()
def likings(
    denoiser: models.Denoiser, chains: list[Trajectory], settings: TrainingSettings
) -> Tensor:
    """(pictures,): how much likelier the adapter makes each of a prompt than the base does, in
    units of the margin."""

    def errors() -> Tensor:
        draw = torch.Generator().manual_seed(1)
        return picture_errors(denoiser, chains, settings, JUDGED_AT, draw)

    tuned = errors()
    with denoiser.adapters.off():
        return 0.5 * (errors() - tuned)


def agreement(active: ActiveRound) -> float:
    """The share of the pairs among unseen pictures of a prompt that the adapter has right."""
    right = []
    for asked in active.pool[active.taught :]:
        scores = active.scores(asked)
        liking = likings(active.denoiser, asked.chains, active.settings).tolist()
        for one, other in itertools.combinations(range(len(scores)), 2):
            if scores[one] != scores[other]:
                right.append((scores[one] > scores[other]) == (liking[one] > liking[other]))
    return statistics.mean(right)


@cache
def _pool(taught: int, unseen: int) -> list[Asked]:
    """Pictures of the base, drawn once a process."""
    session = clicks.session_settings("diffusion_dpo", {})
    prompts, _ = clicks.split_prompts(recogniser.load(), seed=0)
    names = tuple(prompts[number % len(prompts)] for number in range(taught + unseen))
    seeds = tuple(1_000_000 + number for number in range(len(names)))
    base = clicks.load_base(session.base_model)
    return clicks.draw_asked_by_base(base, names, seeds, session.sampling, PICTURES)


def begin(artist: str, taught: int, unseen: int, changes: dict[str, object]) -> ActiveRound:
    """With the starter, which has learned nothing yet; `changes` are of the default's settings."""
    session = clicks.session_settings("diffusion_dpo", changes)
    denoiser = clicks.load_base(session.base_model)
    denoiser.adapters.remove()
    return ActiveRound(
        denoiser,
        clicks.load_artist(f"studio.bench.artists:{artist}"),
        _pool(taught, unseen),
        taught,
        session.sampling,
        session.training,
    )


def look(active: ActiveRound) -> Row:
    """What the artist says of the tuned pictures beside the base's, as in `bench clicks`."""
    judge = recogniser.load()
    _, held_out = clicks.split_prompts(judge, seed=0)
    base = clicks.draw_held_out_by_base(active.denoiser, held_out, active.sampling)
    tuned = clicks.draw_held_out(active.denoiser, held_out, active.sampling)
    return clicks.summarise([clicks.compare(base, tuned, held_out, judge, active.artist)])


def run(
    artist: str, lead: str, taught: int, unseen: int, changes: dict[str, object], threads: int
) -> list[Row]:
    """The figures of one lead with one artist."""
    torch.set_num_threads(threads)
    active = begin(artist, taught, unseen, changes)
    LEADS[lead](active)
    figures = look(active)
    return [{"artist": artist, "lead": lead, "agreement": agreement(active), **figures}]


def table(rows: list[Row]) -> str:
    """Markdown: a line a lead, a column an artist, and the mean where all artists were run."""
    artists = sorted({row["artist"] for row in rows})
    lines = [
        f"| | {' | '.join(artist.replace('_', ' ') for artist in artists)} | mean |",
        "|" + "---|" * (len(artists) + 2),
    ]
    for lead in LEADS:
        of_it = {row["artist"]: row for row in rows if row["lead"] == lead}
        if not of_it:
            continue
        cells = [_cell([of_it[artist]]) if artist in of_it else "" for artist in artists]
        mean = _cell(list(of_it.values())) if len(of_it) == len(artists) else ""
        lines.append(f"| {lead} | {' | '.join(cells)} | {mean} |")
    return "\n".join(lines)


def _cell(rows: list[Row]) -> str:
    names = ("agreement", "win_rate", "shift_sd", "object_accuracy_tuned")
    agrees, wins, shift, objects = (statistics.mean(row[name] for row in rows) for name in names)
    return f"{agrees:.3f}; {wins:.2f}, {shift:+.2f} sd, {objects:.0%}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench ablations", description=__doc__)
    parser.add_argument("--artists", nargs="*", choices=ARTISTS, default=ARTISTS)
    parser.add_argument("--leads", nargs="*", choices=tuple(LEADS), default=tuple(LEADS))
    parser.add_argument("--clicks", type=int, default=TAUGHT)
    parser.add_argument("--unseen", type=int, default=UNSEEN, help="prompts to judge agreement on")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--rows", type=Path, required=True, help="where each run is kept")
    args = parser.parse_args(argv)
    if args.clicks < 4 or args.unseen < 1:
        parser.error("there must be four clicks and an unseen prompt at least")
    changes = {key: clicks.number(value) for key, _, value in (s.partition("=") for s in args.set)}
    known = {(row["artist"], row["lead"]) for row in runs.read(args.rows)}
    todo = [
        (*one, args.clicks, args.unseen, changes)
        for one in itertools.product(args.artists, args.leads)
        if one not in known
    ]
    for [row] in runs.gather(run, todo, args.jobs, args.rows):
        print(f"{row['artist']}, {row['lead']}: {_cell([row])}", flush=True)
    print(table(runs.read(args.rows)))
    return 0
