"""Generates the page `docs/command-line.md` from the output of `--help`.

python -m studio.cli.reference > docs/command-line.md
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from unittest import mock

from studio.cli.arguments import make_parser

WIDTH = 90
HEAD = """\
# The command line

`python -m studio.cli.reference > docs/command-line.md` generates this page from the `--help` of
each command.

```
python launch.py                          the studio in the browser
python launch.py --port 7861              on another port
python launch.py --home FOLDER            with another home
python launch.py --no-browser             without opening the browser
python launch.py --listen --auth NAME:PASSWORD
python launch.py --gpus 2                 learn on two GPUs at once
python launch.py generate "a red apple" --count 4 --seed 7 --out pictures
python launch.py train --session "My taste"
python launch.py pick --session "My taste" --judge taste.py:calm --picks 48
python launch.py export --session "My taste" --out loras --trigger "soft light"
python launch.py sessions export --session "My taste" --out taste.zip
python launch.py sessions import taste.zip
python launch.py picks export --session "My taste" --out picks
python launch.py picks import folder --model sd15.safetensors
python launch.py lora blend a.safetensors b.safetensors --strengths 0.7 0.5 --out both.safetensors
python launch.py lora resize both.safetensors --rank 8 --out small.safetensors
python launch.py lora merge a.safetensors --model sd15.safetensors --out mine.safetensors
python launch.py lora strip a.safetensors --out bare.safetensors
python launch.py lora edit a.safetensors --title "Soft light" --licence CC0-1.0 --out b.safetensors
python launch.py doctor                   check the home, and repair it
python launch.py report                   describe the last errors, for a request for help
python launch.py bench clicks --help
python launch.py test
```

`--listen` speaks plain HTTP: use it in a network that you trust. With `--proxy ADDRESS`, the studio
trusts only that proxy to name the sender of a request.
"""


def page() -> str:
    """The whole page; the same on every terminal."""
    with mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH + 2), "NO_COLOR": "1"}):
        helps = [f"## `{words}`\n\n```\n{text.strip()}\n```\n" for words, text in _helps()]
    return "\n".join([HEAD, *helps])


def _helps() -> Iterator[tuple[str, str]]:
    def below(words: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
        yield words, parser.format_help()
        for action in parser._actions:  # argparse offers no public way to its commands
            if isinstance(action, argparse._SubParsersAction):
                for name, command in action.choices.items():
                    yield from below(f"{words} {name}", command)

    yield from below("python launch.py", make_parser())


if __name__ == "__main__":
    print(page(), end="")
