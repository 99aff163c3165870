"""`generate`: draw pictures from prompts, without a session."""

from __future__ import annotations

import argparse

from torch import Tensor

from studio import models
from studio.cli.arguments import home_folder
from studio.cli.errors import CommandError, say
from studio.engine import ranking, sampling
from studio.engine.trajectory import Trajectory
from studio.lora.export import file_name
from studio.lora.format import read as read_lora
from studio.prompting.alternatives import expand
from studio.runtime import logs
from studio.settings import SamplingSettings


def generate(arguments: argparse.Namespace) -> int:
    """Draw pictures; the files are named by number, seed and prompt. Of `--best-of` many, the one
    with the largest reward is kept."""
    home = home_folder(arguments)
    logs.set_up(home, "command")
    info = models.inspect(arguments.model)
    width_px, height_px = arguments.size or (info.size_px, info.size_px)
    settings = SamplingSettings(
        steps=arguments.steps,
        guidance=arguments.guidance,
        width_px=width_px,
        height_px=height_px,
        seed=arguments.seed,
        negative_prompt=arguments.negative,
        eta=info.facts.eta,
        clip_skip=arguments.clip_skip,
    )
    if arguments.best_of > 1 and arguments.lora is None:
        raise CommandError(
            "--best-of ranks pictures by what a LoRA has learned: name it by --lora."
        )
    denoiser = models.load(arguments.model, arguments.device)
    lora = arguments.lora
    if lora is None or lora.is_dir():
        applied = denoiser.adapters.using(lora, arguments.strength)
    else:
        file = read_lora(lora)
        fit = denoiser.fit(file)
        if fit.strays:
            say(f"{lora.name}: {fit.words}", to_errors=True)
        applied = denoiser.with_lora(file, arguments.strength)
    arguments.out.mkdir(parents=True, exist_ok=True)

    def save(number: int, chain: Trajectory) -> None:
        [image] = sampling.images(denoiser, [chain])
        path = arguments.out / f"{number:03d} {chain.seed} {file_name(chain.prompt)[:60]}.png"
        image.save(path)
        say(path)

    ranked: list[tuple[int, list[Trajectory], Tensor]] = []
    with applied:
        for number, prompt in enumerate(arguments.prompts, start=1):
            for seed in seeds_of(arguments):
                text = expand(prompt, seed, home / "wildcards")
                seeds = range(seed, seed + arguments.best_of)
                chains = [sampling.sample(denoiser, [text], [each], settings)[0] for each in seeds]
                if len(chains) == 1:
                    save(number, chains[0])
                else:
                    ranked.append((number, chains, ranking.scores(denoiser, chains)))
    for number, chains, tuned in ranked:
        rewards = tuned - ranking.scores(denoiser, chains)
        save(number, chains[int(rewards.argmax())])
    return 0


def seeds_of(arguments: argparse.Namespace) -> range:
    """The first seed of each picture of a prompt."""
    end = arguments.seed + arguments.count * arguments.best_of
    return range(arguments.seed, end, arguments.best_of)
