"""The arguments of every command; `run` names the function that carries it out.

Only the standard library is imported at the top, because `launch.py` calls `parse` before anything
is installed.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
from pathlib import Path
from typing import Any

from studio import __version__
from studio.paths import expanded
from studio.settings import LEAST_STRENGTH, MOST_STRENGTH, SettingsError, checked_strength

DEFAULT_PORT = 7860
# Modules with `main(argv)`: of studio.bench.research, and of studio.bench.
RESEARCH = ("ablations", "amplified", "gradients", "questions")
BENCHMARKS = (
    *RESEARCH,
    *["best-of", "clicks", "clicks-latency", "curves", "faults", "first-minute", "frontier"],
    *["full-size", "profile", "protections", "readers", "sample", "soak", "tastes", "train"],
)
FORMATS = ("kohya", "diffusers")
PICK_FORMS = ("pickapic", "folders", "d3po")
PRECISIONS = ("float32", "float16", "bfloat16")


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line; exits after printing help or a mistake."""
    # The arguments after these commands are for pytest, or for a benchmark's own parser.
    own = {"test": 1, "bench": 2}.get(argv[0] if argv else "", len(argv))
    arguments = make_parser().parse_args(argv[:own])
    arguments.rest = argv[own:]
    if getattr(arguments, "listen", False) and credentials(arguments) is None:
        make_parser().error(
            "--listen opens the studio to your network, so it needs a name and a password: "
            "add --auth NAME:PASSWORD, or set D3PO_STUDIO_AUTH=NAME:PASSWORD."
        )
    return arguments


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="launch.py",
        description="Teach an image model your own taste by clicking. Without a command the "
        "studio opens in the browser.",
    )
    parser.add_argument("--version", action="version", version=f"D3PO Studio {__version__}")
    parser.set_defaults(run="studio.cli.serve:serve", command="serve")
    _add_home(parser)
    parser.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, help=f"default {DEFAULT_PORT}; 0: any free one"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the browser")
    parser.add_argument(
        "--listen", action="store_true", help="accept other machines; only with --auth"
    )
    parser.add_argument(
        "--auth",
        metavar="NAME:PASSWORD",
        type=_credentials,
        help="required in the browser; the variable D3PO_STUDIO_AUTH does the same, and does not "
        "show in the list of processes",
    )
    parser.add_argument(
        "--proxy",
        metavar="ADDRESS",
        type=_address,
        help="of a trusted proxy before the studio, which names the senders of requests",
    )
    parser.add_argument(
        "--gpus",
        type=_count,
        default=1,
        metavar="N",
        help="number of GPUs to train on; 0: start the worker yourself, for example with "
        "`accelerate launch -m studio.worker --home FOLDER`",
    )
    commands = parser.add_subparsers(title="commands, each with --help", metavar="COMMAND")

    command = _command(
        commands, "generate", "generate:generate", "draw pictures from prompts, as PNG files"
    )
    _add_home(command)
    command.add_argument("prompts", nargs="+", metavar="PROMPT")
    command.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="default: here")
    command.add_argument(
        "--model", default="starter", help="a diffusers folder or checkpoint; default: the starter"
    )
    command.add_argument(
        "--lora",
        type=Path,
        metavar="PATH",
        help="draw with this adapter folder or LoRA file",
    )
    command.add_argument(
        "--strength",
        type=_strength,
        default=1.0,
        help=f"of the adapter, from {LEAST_STRENGTH:g} to {MOST_STRENGTH:g}; 0 is the base model, "
        "below 0 the opposite of what was learned; default 1",
    )
    command.add_argument(
        "--count", type=_at_least_one, default=1, help="pictures per prompt; default 1"
    )
    command.add_argument(
        "--best-of",
        type=_at_least_one,
        default=1,
        metavar="N",
        help="for each picture, draw N with --lora and keep the one that it likes best; default 1",
    )
    command.add_argument("--seed", type=int, default=0, help="of the first picture; default 0")
    command.add_argument("--steps", type=int, default=20, help="default 20")
    command.add_argument("--guidance", type=float, default=3.0, help="default 3")
    command.add_argument(
        "--clip-skip", type=_at_least_one, default=1, help="as in A1111; default 1"
    )
    command.add_argument("--negative", default="", metavar="PROMPT", help="the negative prompt")
    command.add_argument(
        "--size", type=_size, metavar="WIDTHxHEIGHT", help="default: the model's own"
    )
    command.add_argument("--device", help="for example cpu, cuda or mps; default: the best one")

    command = _command(
        commands, "train", "sessions:train", "train a round on the picks of a session"
    )
    _add_home(command)
    _add_session(command)
    command.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="change how the session learns first, as under How it learns: keep_to_prompt=1, "
        "orders=rank or list, beside=SESSION, beside_share=0.5, from_tastes=true",
    )

    command = _command(
        commands, "pick", "pick:pick", "let a judge pick: a function that scores pictures"
    )
    _add_home(command)
    _add_session(command)
    command.add_argument(
        "--judge",
        required=True,
        metavar="FILE.py:FUNCTION",
        help="a function (Pillow image, prompt) -> number, higher is better, in a Python file, "
        "which is run; or compressible or incompressible",
    )
    command.add_argument(
        "--picks",
        type=_at_least_one,
        metavar="N",
        help="default: as many as the session has from one round to the next",
    )

    command = _command(
        commands, "export", "sessions:export", "write a session's adapter as LoRA files"
    )
    _add_home(command)
    _add_session(command)
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the files")
    command.add_argument("--adapter", help="its number or id; default: the one in use")
    command.add_argument("--name", help="default: the session's name")
    command.add_argument("--notes", default="", help="the taste in your own words")
    command.add_argument("--trigger", default="", help="words that belong in the prompt")
    command.add_argument(
        "--strength",
        type=_recommended,
        default=1.0,
        help=f"your recommendation, from {LEAST_STRENGTH:g} to {MOST_STRENGTH:g}; default 1",
    )
    command.add_argument("--licence", default="", help="of the files")
    command.add_argument("--author", default="", help="your name")
    command.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of the numbers; default float32"
    )
    command.add_argument("--format", choices=FORMATS, action="append", help="default: both")
    command.add_argument(
        "--workflows",
        action="store_true",
        help="also write a ComfyUI workflow and settings for A1111",
    )

    command = _command(
        commands, "sessions", "sessions:sessions", "list sessions, or export or import one"
    )
    _add_home(command)
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_home(actions.add_parser("list", help="show the sessions"))
    action = actions.add_parser("export", help="write a session with all its files as one archive")
    _add_home(action)
    _add_session(action)
    action.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new .zip")
    action = actions.add_parser("import", help="add the session of an archive")
    _add_home(action)
    action.add_argument("archive", type=Path, metavar="FILE")

    command = _command(
        commands, "picks", "picks:picks", "export picks for other programs, or import theirs"
    )
    _add_home(command)
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = actions.add_parser("export", help="write a session's picks, with the pictures")
    _add_home(action)
    _add_session(action)
    action.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    action.add_argument(
        "--as",
        dest="form",
        choices=PICK_FORMS,
        default=PICK_FORMS[0],
        help="pickapic: a folder for `datasets` with Pick-a-Pic's columns (default); folders: "
        "chosen and rejected, as SimpleTuner, OneTrainer and Flow-Factory take them; d3po: the "
        "files of D3PO's published code",
    )
    action = actions.add_parser(
        "import",
        help="make a session from other programs' picks",
        description="Make a session from other programs' picks: parquet files with Pick-a-Pic's "
        "columns, D3PO's files, Flow-Factory's train.jsonl, or the folders chosen and rejected "
        "with pictures of the same names and their prompts in text files beside them.",
    )
    _add_home(action)
    action.add_argument("path", type=Path, metavar="PATH", help="a folder, or a parquet file")
    action.add_argument("--name", help="of the session; default: that of the folder")
    action.add_argument("--model", default="starter", help="to train; default: the starter")
    action.add_argument("--size", type=_size, metavar="WIDTHxHEIGHT", help="default: the model's")
    action.add_argument("--device", help="for example cpu, cuda or mps; default: the best one")

    command = _command(
        commands,
        "lora",
        "lora:lora",
        "blend LoRA files, change their rank or metadata, or merge one into a model",
    )
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = actions.add_parser("blend", help="one file with the summed effect of several")
    action.add_argument("files", nargs="+", type=Path, metavar="FILE")
    action.add_argument(
        "--strengths", nargs="+", type=float, metavar="S", help="one for each; default: 1"
    )
    _add_lora_out(action)
    action.add_argument("--rank", type=_at_least_one, help="default: the sum of their ranks")
    action = actions.add_parser("resize", help="the nearest LoRA of another rank")
    action.add_argument("file", type=Path, metavar="FILE")
    action.add_argument("--rank", type=_at_least_one, required=True)
    _add_lora_out(action)
    action = actions.add_parser("merge", help="a copy of a base model with the LoRA in it")
    action.add_argument("file", type=Path, metavar="FILE")
    action.add_argument("--model", required=True, help="a checkpoint, or a diffusers folder")
    action.add_argument("--strength", type=float, default=1.0, help="default 1")
    action.add_argument(
        "--out", type=Path, required=True, help="a new file or folder, like --model"
    )
    action = actions.add_parser(
        "strip", help="a copy with only the metadata that a tool needs to load it"
    )
    _add_words(action)
    action = actions.add_parser("edit", help="a copy with other metadata")
    _add_words(action)

    command = _command(commands, "doctor", "doctor:doctor", "check the home, and repair it")
    _add_home(command)
    command.add_argument(
        "--restore",
        metavar="SNAPSHOT",
        help="replace a damaged database by this snapshot: a name that doctor lists, or a path",
    )

    _add_home(
        _command(
            commands, "report", "doctor:report", "describe the last errors, for a request for help"
        )
    )

    command = _command(
        commands, "bench", "develop:bench", "measure the figures of the documentation"
    )
    command.add_argument("benchmark", choices=BENCHMARKS, help="each has its own --help")

    _command(commands, "test", "develop:test", "run all tests; further arguments are for pytest")
    return parser


def _command(commands: Any, name: str, run: str, summary: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    parser.set_defaults(run=f"studio.cli.{run}", command=name)
    return parser


def _add_home(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home",
        type=Path,
        metavar="FOLDER",
        default=argparse.SUPPRESS,  # so that it is valid before and after the command
        help="the studio's folder; default: D3PO_STUDIO_HOME, or the usual folder for an "
        "application's data",
    )


def _add_session(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--session", required=True, metavar="NAME", help="its name or id")


def _add_lora_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a new .safetensors"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")


def _add_words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a LoRA of any kind")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a new .safetensors"
    )
    parser.add_argument("--title", help='"" removes the field, also of those below')
    parser.add_argument("--description")
    parser.add_argument("--author")
    parser.add_argument("--trigger", help="words that belong in the prompt")
    parser.add_argument("--licence")
    parser.add_argument("--thumbnail", metavar="PICTURE", help="PNG, JPEG or WebP")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError("an address is written like 192.168.0.2") from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError("a whole number is needed")
    return int(text)


def _at_least_one(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError("a whole number from 1 upwards is needed")
    return int(text)


def _strength(text: str, *, zero: bool = True) -> float:
    try:
        return checked_strength(float(text), zero=zero)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except ValueError:
        raise argparse.ArgumentTypeError("a strength is a number such as 0.5") from None


def _recommended(text: str) -> float:
    return _strength(text, zero=False)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height)
    except ValueError:
        raise argparse.ArgumentTypeError("a size is written like 512x512") from None


def _credentials(text: str) -> tuple[str, str]:
    name, colon, password = text.partition(":")
    if not (name and colon and password):
        raise argparse.ArgumentTypeError("write it as NAME:PASSWORD")
    return name, password


def credentials(arguments: argparse.Namespace) -> tuple[str, str] | None:
    """The required name and password, if any."""
    if arguments.auth is not None:
        return arguments.auth
    given = os.environ.get("D3PO_STUDIO_AUTH", "")
    try:
        return _credentials(given) if given else None
    except argparse.ArgumentTypeError as error:
        make_parser().error(f"D3PO_STUDIO_AUTH: {error}")


def home_folder(arguments: argparse.Namespace) -> Path:
    """The studio's home folder."""
    given = getattr(arguments, "home", None) or os.environ.get("D3PO_STUDIO_HOME")
    if given:
        return expanded(given).absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("d3po-studio", appauthor=False))
