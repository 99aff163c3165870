"""`generate`: draw pictures from prompts, without a session."""

from __future__ import annotations

import argparse

from studio import models
from studio.cli.arguments import home_folder
from studio.cli.errors import say
from studio.engine import sampling
from studio.lora.export import file_name
from studio.lora.format import read as read_lora
from studio.prompting.alternatives import expand
from studio.runtime import logs
from studio.settings import SamplingSettings


def generate(arguments: argparse.Namespace) -> int:
    """Draw pictures; the files are named by number, seed and prompt."""
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
    with applied:
        for number, prompt in enumerate(arguments.prompts, start=1):
            for seed in range(arguments.seed, arguments.seed + arguments.count):
                text = expand(prompt, seed, home / "wildcards")
                chains = sampling.sample(denoiser, [text], [seed], settings)
                [image] = sampling.images(denoiser, chains)
                path = arguments.out / f"{number:03d} {seed} {file_name(text)[:60]}.png"
                image.save(path)
                say(path)
    return 0
