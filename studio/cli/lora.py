"""`lora`: operations on LoRA files of any origin."""

from __future__ import annotations

import argparse
from pathlib import Path

from studio import models
from studio.cli.arguments import home_folder
from studio.cli.errors import CommandError, say
from studio.lora import tools
from studio.lora.fuse import layers
from studio.lora.merge import merge
from studio.lora.restate import restate, thumbnail
from studio.runtime import logs


def lora(arguments: argparse.Namespace) -> int:
    """Blend, resize or merge LoRA files, or change their metadata."""
    logs.set_up(home_folder(arguments), "command")
    if arguments.action == "merge":
        return _merge(arguments)
    if arguments.action in ("strip", "edit"):
        return _restate(arguments)
    share = 1.0
    if arguments.action == "blend":
        strengths = arguments.strengths or [1.0] * len(arguments.files)
        if len(strengths) != len(arguments.files):
            raise CommandError(
                f"There are {len(arguments.files)} files and {len(strengths)} strengths: give one "
                "for each."
            )
        result = tools.blend([tools.read(path) for path in arguments.files], strengths)
    else:
        result = tools.read(arguments.file)
    if arguments.rank:
        result, share = tools.resize(result, arguments.rank)
    tools.write(arguments.out, result, arguments.precision)
    say(arguments.out)
    say(f"{len(result.parts)} layers of rank {result.rank}.")
    if share < 1 - 1e-6:
        say(f"The layer that loses most keeps {100 * share:.1f} % of its change.")
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    denoiser = models.load(arguments.model, "cpu")
    texts = [{name: tuple(w.shape) for name, w in layers(one)} for one in denoiser.text_encoders]
    count = merge(
        tools.read(arguments.file),
        arguments.strength,
        denoiser.info.path,
        denoiser.info.family,
        denoiser.adapters.layer_shapes,
        texts,
        arguments.out,
    )
    say(arguments.out)
    say(f"{count} layers were changed.")
    return 0


def _restate(arguments: argparse.Namespace) -> int:
    words = {
        "title": arguments.title,
        "description": arguments.description,
        "author": arguments.author,
        "trigger_phrase": arguments.trigger,
        "license": arguments.licence,
        "thumbnail": arguments.thumbnail and thumbnail(Path(arguments.thumbnail)),
    }
    given = {key: value for key, value in words.items() if value is not None}
    is_strip = arguments.action == "strip"
    if not given and not is_strip:
        raise CommandError("Name at least one field to change: --title, --trigger and so on.")
    metadata = restate(arguments.file, arguments.out, given, strip=is_strip)
    say(arguments.out)
    for key, value in sorted(metadata.items()):
        say(f"{key}: {value if len(value) <= 100 else value[:100] + '…'}")
    if "trigger_phrase" in given:
        say("A1111 shows the trigger of the .json beside the file, not of the file itself.")
    return 0
