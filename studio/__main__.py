"""The command line: the studio in the browser, and the same actions without one.

Nothing outside the standard library is imported at the top: `launch.py` reads the arguments with
`parse` before anything is installed, and the process that serves the pages never imports torch.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import ipaddress
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from studio import __version__

if TYPE_CHECKING:
    from studio.store import Adapter, Session, Store

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_PORT = 7860
# Modules of studio.bench.research, each with `main(argv)`, and those of studio.bench itself.
RESEARCH = ("ablations", "gradients", "questions")
BENCHMARKS = (
    *RESEARCH,
    "clicks",
    "clicks-latency",
    "curves",
    "faults",
    "frontier",
    "full-size",
    "profile",
    "protections",
    "readers",
    "sample",
    "soak",
    "train",
)
FORMATS = ("kohya", "diffusers")
PICK_FORMS = ("pickapic", "d3po")
PRECISIONS = ("float32", "float16", "bfloat16")
POLL_S = 0.3
MOST_DEATHS = 5  # of a worker in a row, before a command gives up

Found = TypeVar("Found")

log = logging.getLogger("studio")


class CommandError(Exception):
    """A command that cannot be carried out; the message is a sentence for whoever typed it."""


def main(argv: list[str] | None = None) -> int:
    """Carry out a command; gives the exit status."""
    _let_no_print_fail()
    arguments = parse(sys.argv[1:] if argv is None else argv)
    # For the worker as well: libraries speak to programmers, and nothing is reported to anybody.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # plain HTTP, which goes on after a cut
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        say("\nStopped.", to_errors=True)
        return 130
    except Exception as error:
        return _report(error, arguments)


def _let_no_print_fail() -> None:
    """A console may lack letters, as those of cp1252 do: they are written as their numbers then.

    Where nobody reads any more, as after `| head -1`, the work still goes on: see `say`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(*words: object, end: str = "\n", to_errors: bool = False) -> None:
    """`print`, which never ends the work: from the first failure on, nothing is said."""
    stream = sys.stderr if to_errors else sys.stdout
    try:
        print(*words, end=end, file=stream, flush=True)
    except (OSError, ValueError):  # the reader is gone, the disk behind it full, or it is closed
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _report(error: Exception, arguments: argparse.Namespace) -> int:
    """What went wrong, in a sentence; every error class of ours carries one."""
    if isinstance(error, CommandError) or type(error).__module__.startswith("studio."):
        say(error, to_errors=True)
        # What a library said, which the sentence leaves out; not into a terminal.
        if error.__cause__ is not None and logging.getLogger().handlers:
            log.warning("%s failed", arguments.command, exc_info=error)
        return 2 if type(error).__name__ == "StoreLocked" else 1
    if arguments.command in ("bench", "test"):  # for developers, who want to see where
        raise error
    log.error("%s failed", arguments.command, exc_info=error)
    say(
        f"Something went wrong that should not have: {error}\n"
        f"The details are in {home_folder(arguments) / 'logs'}.",
        to_errors=True,
    )
    return 1


# --- arguments -----------------------------------------------------------------------------------


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments as a command with its options; prints help and mistakes, and exits then."""
    # What follows these commands is for pytest, or for a benchmark's own parser.
    own = {"test": 1, "bench": 2}.get(argv[0] if argv else "", len(argv))
    arguments = _parser().parse_args(argv[:own])
    arguments.rest = argv[own:]
    if getattr(arguments, "listen", False) and credentials(arguments) is None:
        _parser().error(
            "--listen lets others on your network in, so it needs a name and a password: "
            "add --auth NAME:PASSWORD, or set D3PO_STUDIO_AUTH=NAME:PASSWORD."
        )
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="launch.py",
        description="Teach an image model your own taste by clicking. Without a command the "
        "studio opens in the browser.",
    )
    parser.add_argument("--version", action="version", version=f"D3PO Studio {__version__}")
    parser.set_defaults(run=serve, command="serve")
    _add_home(parser)
    parser.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, help=f"default {DEFAULT_PORT}; 0: any free one"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the browser")
    parser.add_argument(
        "--listen", action="store_true", help="let other machines in; only with --auth"
    )
    parser.add_argument(
        "--auth",
        metavar="NAME:PASSWORD",
        type=_credentials,
        help="ask for these in the browser; D3PO_STUDIO_AUTH in the environment does the same "
        "and does not show in the list of processes",
    )
    parser.add_argument(
        "--proxy",
        metavar="ADDRESS",
        type=_address,
        help="of a proxy before the studio, which alone is believed for whom it asks",
    )
    parser.add_argument(
        "--gpus",
        type=_count,
        default=1,
        metavar="N",
        help="learn on so many at once; 0: you start the worker yourself, as with `accelerate "
        "launch -m studio.worker --home FOLDER`",
    )
    commands = parser.add_subparsers(title="commands, each with --help", metavar="COMMAND")

    one = _command(commands, "generate", generate, "draw pictures from prompts, as PNG files")
    _add_home(one)
    one.add_argument("prompts", nargs="+", metavar="PROMPT")
    one.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="default: here")
    one.add_argument(
        "--model", default="starter", help="a diffusers folder or checkpoint; default: the starter"
    )
    one.add_argument(
        "--lora",
        type=Path,
        metavar="PATH",
        help="an adapter's folder, or a LoRA file, to draw with",
    )
    one.add_argument("--strength", type=float, default=1.0, help="of the adapter; default 1")
    one.add_argument("--count", type=_at_least_one, default=1, help="pictures a prompt; default 1")
    one.add_argument("--seed", type=int, default=0, help="of the first picture; default 0")
    one.add_argument("--steps", type=int, default=20, help="default 20")
    one.add_argument("--guidance", type=float, default=3.0, help="default 3")
    one.add_argument("--clip-skip", type=_at_least_one, default=1, help="as in A1111; default 1")
    one.add_argument("--negative", default="", metavar="PROMPT", help="what to keep out")
    one.add_argument("--size", type=_size, metavar="WIDTHxHEIGHT", help="default: the model's own")
    one.add_argument("--device", help="such as cpu, cuda or mps; default: the best there is")

    one = _command(commands, "train", train, "train a round on the picks of a session")
    _add_home(one)
    _add_session(one)

    one = _command(commands, "export", export, "write a session's adapter as LoRA files")
    _add_home(one)
    _add_session(one)
    one.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to")
    one.add_argument("--adapter", help="its number or id; default: the one in use")
    one.add_argument("--name", help="default: the session's name")
    one.add_argument("--notes", default="", help="what the taste is, in your words")
    one.add_argument("--trigger", default="", help="words that belong into the prompt")
    one.add_argument("--strength", type=float, default=1.0, help="you recommend; default 1")
    one.add_argument("--licence", default="", help="under which you give it away")
    one.add_argument("--author", default="", help="your name")
    one.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of the numbers; default float32"
    )
    one.add_argument("--format", choices=FORMATS, action="append", help="default: both")

    one = _command(commands, "sessions", sessions, "keep a session as one file, or take one in")
    _add_home(one)
    actions = one.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_home(actions.add_parser("list", help="show the sessions"))
    action = actions.add_parser("export", help="write a session with all its files as one archive")
    _add_home(action)
    _add_session(action)
    action.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new .zip")
    action = actions.add_parser("import", help="take a session from an archive")
    _add_home(action)
    action.add_argument("archive", type=Path, metavar="FILE")

    one = _command(commands, "picks", picks, "give the picks to other programs, or take theirs")
    _add_home(one)
    actions = one.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = actions.add_parser("export", help="write a session's picks, with the pictures")
    _add_home(action)
    _add_session(action)
    action.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    action.add_argument(
        "--as",
        dest="form",
        choices=PICK_FORMS,
        default=PICK_FORMS[0],
        help="pickapic: a folder for `datasets` with Pick-a-Pic's columns (default); d3po: the "
        "files of D3PO's published code",
    )
    action = actions.add_parser(
        "import",
        help="make a session of picks from elsewhere",
        description="Make a session of picks from elsewhere: parquet files with Pick-a-Pic's "
        "columns, D3PO's files, or the folders chosen and rejected with pictures of the same names "
        "and their prompts in text files beside them.",
    )
    _add_home(action)
    action.add_argument("path", type=Path, metavar="PATH", help="a folder, or a parquet file")
    action.add_argument("--name", help="of the session; default: that of the folder")
    action.add_argument("--model", default="starter", help="to be taught; default: the starter")
    action.add_argument("--size", type=_size, metavar="WIDTHxHEIGHT", help="default: the model's")
    action.add_argument("--device", help="such as cpu, cuda or mps; default: the best there is")

    one = _command(
        commands, "lora", lora, "blend LoRA files, change their rank or words, merge into a model"
    )
    actions = one.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = actions.add_parser("blend", help="one file that does what several do together")
    action.add_argument("files", nargs="+", type=Path, metavar="FILE")
    action.add_argument(
        "--strengths", nargs="+", type=float, metavar="S", help="one for each; default: 1"
    )
    _add_lora_out(action)
    action.add_argument("--rank", type=_at_least_one, help="default: their ranks together")
    action = actions.add_parser("resize", help="the nearest LoRA of another rank")
    action.add_argument("file", type=Path, metavar="FILE")
    action.add_argument("--rank", type=_at_least_one, required=True)
    _add_lora_out(action)
    action = actions.add_parser("merge", help="a copy of a base model with the LoRA in it")
    action.add_argument("file", type=Path, metavar="FILE")
    action.add_argument("--model", required=True, help="a checkpoint, or a diffusers folder")
    action.add_argument("--strength", type=float, default=1.0, help="default 1")
    action.add_argument("--out", type=Path, required=True, help="new, and of the model's kind")
    action = actions.add_parser(
        "strip", help="a copy that says nothing but what a tool needs to load it"
    )
    _add_words(action)
    action = actions.add_parser("edit", help="a copy that says something else of itself")
    _add_words(action)

    one = _command(commands, "doctor", doctor, "look at everything that is kept, and repair it")
    _add_home(one)
    one.add_argument(
        "--restore",
        metavar="SNAPSHOT",
        help="put this snapshot in the place of a damaged database: a name that doctor lists, or "
        "a path",
    )

    _add_home(_command(commands, "report", report, "print what helps others to help you"))

    one = _command(commands, "bench", bench, "measure what the README claims")
    one.add_argument("benchmark", choices=BENCHMARKS, help="each has its own --help")

    _command(commands, "test", test, "run all tests; what follows is for pytest")
    return parser


def _command(commands: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    parser.set_defaults(run=run, command=name)
    return parser


def _add_home(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home",
        type=Path,
        metavar="FOLDER",
        default=argparse.SUPPRESS,  # so that it may stand before the command or after it
        help="where the studio keeps everything; default: D3PO_STUDIO_HOME, or the usual place "
        "for an application's data",
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
    parser.add_argument("--title", help='"" takes away what was said, here and below')
    parser.add_argument("--description")
    parser.add_argument("--author")
    parser.add_argument("--trigger", help="words that belong into the prompt")
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
    """The name and the password that the studio asks for, if any."""
    if arguments.auth is not None:
        return arguments.auth
    given = os.environ.get("D3PO_STUDIO_AUTH", "")
    try:
        return _credentials(given) if given else None
    except argparse.ArgumentTypeError as error:
        _parser().error(f"D3PO_STUDIO_AUTH: {error}")


def home_folder(arguments: argparse.Namespace) -> Path:
    """Where the studio keeps everything."""
    given = getattr(arguments, "home", None) or os.environ.get("D3PO_STUDIO_HOME")
    if given:
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("d3po-studio", appauthor=False))


# --- the studio in the browser -------------------------------------------------------------------


def serve(arguments: argparse.Namespace) -> int:
    """The studio, until Ctrl+C: one studio a home, one worker a studio."""
    from studio.runtime import logs
    from studio.runtime.supervisor import Supervisor, worker_command
    from studio.store import Store, StudioLock, home_warning

    home, gpus = home_folder(arguments), arguments.gpus
    worker = Supervisor(home, worker_command(home, gpus)) if gpus else contextlib.nullcontext()
    address = "0.0.0.0" if arguments.listen else "127.0.0.1"
    _end_on_sigterm()
    with StudioLock(home), _bound_socket(address, arguments.port) as door:
        logs.set_up(home, "web")
        if sentence := home_warning(home):
            log.warning("%s", sentence)
            say(sentence)
        with contextlib.closing(Store.open(home)) as store, worker:
            # Ctrl+C; where a shell made it be ignored, the server just returns.
            with contextlib.suppress(KeyboardInterrupt):
                _serve_pages(store, door, arguments)
            say("\nEnding. Everything is kept.")
    return 0


def _serve_pages(store: Store, door: socket.socket, arguments: argparse.Namespace) -> None:
    from studio.runtime.environment import without_network_variables

    # Gradio makes network clients when it is imported. The pages ask nothing of other machines.
    with without_network_variables():
        from studio.ui.app import server

        served = server(store, *door.getsockname()[:2], credentials(arguments), arguments.proxy)
    address, port = door.getsockname()[:2]
    announced = (address, port, not arguments.no_browser)
    threading.Thread(target=_announce, args=announced, daemon=True).start()
    served.run(sockets=[door])


def _announce(address: str, port: int, open_browser: bool) -> None:
    """Say where the studio is, and show it, as soon as it answers there."""
    url = f"http://127.0.0.1:{port}"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine
    try:
        direct.open(url, timeout=600).close()
    except urllib.error.HTTPError:
        pass  # it does answer: with the question for name and password
    except OSError:
        return  # it ended before it was open
    say(f"D3PO Studio is open at {url}")
    if address != "127.0.0.1":
        say(f"and for others at http://{socket.gethostname()}:{port}")
    say("End it with Ctrl+C; nothing is lost.")
    if open_browser and _has_screen():
        webbrowser.open(url)


def _has_screen() -> bool:
    """Without one, Python would open a text browser here in the terminal."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _bound_socket(address: str, port: int) -> socket.socket:
    """A listening socket, opened first of all, so that a port in use is noticed at once."""
    door = socket.socket()
    if os.name == "posix":  # elsewhere it would allow two studios on one port
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((address, port))
        door.listen(128)
    except OSError as error:
        door.close()
        raise CommandError(
            f"Port {port} cannot be used ({error.strerror}): perhaps another program, or another "
            f"studio, has it. Choose one that is free with --port, such as --port {port + 1}."
        ) from error
    return door


def _end_on_sigterm() -> None:
    """Let a polite kill unwind the stack as Ctrl+C does, so that the worker ends too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


# --- the same actions without a browser ----------------------------------------------------------


def generate(arguments: argparse.Namespace) -> int:
    """Draw pictures; the files are named by number, seed and prompt."""
    from studio import models
    from studio.engine import sampling
    from studio.lora.export import file_name
    from studio.lora.format import read as read_lora
    from studio.prompting.alternatives import expand
    from studio.runtime import logs
    from studio.settings import SamplingSettings

    home = home_folder(arguments)
    logs.set_up(home, "command")
    native_px = models.inspect(arguments.model).size_px
    width_px, height_px = arguments.size or (native_px, native_px)
    settings = SamplingSettings(
        steps=arguments.steps,
        guidance=arguments.guidance,
        width_px=width_px,
        height_px=height_px,
        seed=arguments.seed,
        negative_prompt=arguments.negative,
        clip_skip=arguments.clip_skip,
    )
    denoiser = models.load(arguments.model, arguments.device)
    lora = arguments.lora
    if lora is None or lora.is_dir():
        applied = denoiser.adapters.using(lora, arguments.strength)
    else:
        file = read_lora(lora)
        fitted = denoiser.fit(file)
        if fitted.strays:
            say(f"{lora.name}: {fitted.words}", to_errors=True)
        applied = denoiser.with_lora(file, arguments.strength)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with applied:
        for number, prompt in enumerate(arguments.prompts, start=1):
            for seed in range(arguments.seed, arguments.seed + arguments.count):
                text = expand(prompt, seed, home / "wildcards")
                drawn = sampling.sample(denoiser, [text], [seed], settings)
                [image] = sampling.images(denoiser, drawn)
                path = arguments.out / f"{number:03d} {seed} {file_name(text)[:60]}.png"
                image.save(path)
                say(path)
    return 0


def train(arguments: argparse.Namespace) -> int:
    """One round, in the foreground; a studio that runs on the same home does the work itself."""
    from studio.store.rows import OPEN_ROUND_STATES, Round

    with _store(arguments) as store:
        session = _session(store, arguments.session)
        round_id = store.resume_round(store.request_round(session.id).id).id

        def look() -> Round | None:
            round_ = store.round(round_id)
            done, total = round_.updates_done, round_.updates_total
            _progress(f"Round {round_.number}: {done} of {total} updates")
            return None if round_.state in OPEN_ROUND_STATES else round_

        round_ = _wait_for_worker(store.home, look)
        _progress(f"Round {round_.number}: {round_.message}", last=True)
    return 0 if round_.state == "done" else 1


def export(arguments: argparse.Namespace) -> int:
    """An adapter as LoRA files, checked by reading them back."""
    from studio.store.rows import CHECK_PICTURE, OPEN_JOB_STATES, Job

    with _store(arguments) as store:
        session = _session(store, arguments.session)
        adapter = _adapter(store, session, arguments.adapter)
        payload = {
            "adapter_id": adapter.id,
            "name": arguments.name or session.name,
            "notes": arguments.notes,
            "trigger": arguments.trigger,
            "strength": arguments.strength,
            "author": arguments.author,
            "licence": arguments.licence,
            "formats": arguments.format or list(FORMATS),
            "precision": arguments.precision,
        }
        job_id = store.add_job(session.id, "export", payload).id

        def look() -> Job | None:
            job = store.job(job_id)
            return None if job.state in OPEN_JOB_STATES else job

        job = _wait_for_worker(store.home, look)
        if job.state != "done":
            raise CommandError(job.message)
        made = next(one for one in store.exports(session.id) if one.id == job.result["export_id"])
        offered = tuple(name for name in made.files if not name.endswith(CHECK_PICTURE))
        _copy_new(store.export_path(session.id, made.id), offered, arguments.out)
        for what, found in made.checks.items():
            say(f"{what}: {found}")
    return 0


def sessions(arguments: argparse.Namespace) -> int:
    """Sessions as archives: see `studio.store.archive` for what is in one."""
    from studio.store import export_session, import_session

    with _store(arguments) as store:
        if arguments.action == "export":
            session = _session(store, arguments.session)
            missing = export_session(store, session.id, arguments.out.absolute())
            say(arguments.out)
            if missing:
                say(f"{missing} files were missing and are not in it.", to_errors=True)
        elif arguments.action == "import":
            session = import_session(store, arguments.archive)
            say(f"{session.id}  {session.name}")
        else:
            for session in store.sessions():
                say(f"{session.id}  {session.name}")
    return 0


def picks(arguments: argparse.Namespace) -> int:
    """Picks as other people's programs keep them: see `studio.datasets` for the forms."""
    from studio import datasets

    with _store(arguments) as store:
        if arguments.action == "export":
            session = _session(store, arguments.session)
            out, picked = arguments.out.absolute(), store.picked_pairs(session.id)
            done, left_out = datasets.write(out, arguments.form, picked, store.image_path)
            say(f"{done} picks are in {arguments.out}.")
        else:
            done, left_out = _take_picks_in(arguments, store)
    if left_out:
        say(f"{left_out} could not be used and were left out.", to_errors=True)
    return 0


def _take_picks_in(arguments: argparse.Namespace, store: Store) -> tuple[int, int]:
    from studio import datasets, models

    path = arguments.path.absolute()
    given = datasets.read(path)  # what it is, before a model is loaded
    native_px = models.inspect(arguments.model).size_px
    denoiser = models.load(arguments.model, arguments.device)
    taken = datasets.take_in(
        store,
        denoiser,
        (arguments.model, None),
        arguments.name or path.stem,
        given,
        arguments.size or (native_px, native_px),
        lambda _, done: _progress(f"{done} picks"),
    )
    _progress(f"{taken.session.id}  {taken.session.name}: {taken.picks} picks", last=True)
    say("Diffusion-DPO can learn from them. D3PO cannot: how they were drawn is not known.")
    for remark in taken.remarks:
        say(remark, to_errors=True)
    return taken.picks, taken.left_out


def lora(arguments: argparse.Namespace) -> int:
    """Operations on LoRA files, of the studio or of anybody."""
    from studio.lora import tools
    from studio.runtime import logs

    logs.set_up(home_folder(arguments), "command")
    if arguments.action == "merge":
        return _merge(arguments)
    if arguments.action in ("strip", "edit"):
        return _restate(arguments)
    kept = 1.0
    if arguments.action == "blend":
        strengths = arguments.strengths or [1.0] * len(arguments.files)
        if len(strengths) != len(arguments.files):
            raise CommandError(
                f"There are {len(arguments.files)} files and {len(strengths)} strengths: give one "
                "for each."
            )
        made = tools.blend([tools.read(path) for path in arguments.files], strengths)
    else:
        made = tools.read(arguments.file)
    if arguments.rank:
        made, kept = tools.resize(made, arguments.rank)
    tools.write(arguments.out, made, arguments.precision)
    say(arguments.out)
    say(f"{len(made.parts)} layers of rank {made.rank}.")
    if kept < 1 - 1e-6:
        say(f"The layer that loses most keeps {100 * kept:.1f} % of its change.")
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    from studio import models
    from studio.lora import tools

    denoiser = models.load(arguments.model, "cpu")
    count = tools.merge(
        tools.read(arguments.file),
        arguments.strength,
        denoiser.info.path,
        denoiser.info.family,
        denoiser.adapters.layer_shapes,
        arguments.out,
    )
    say(arguments.out)
    say(f"{count} layers were changed.")
    return 0


def _restate(arguments: argparse.Namespace) -> int:
    from studio.lora import tools

    words = {
        "title": arguments.title,
        "description": arguments.description,
        "author": arguments.author,
        "trigger_phrase": arguments.trigger,
        "license": arguments.licence,
        "thumbnail": arguments.thumbnail and tools.thumbnail(Path(arguments.thumbnail)),
    }
    given = {key: value for key, value in words.items() if value is not None}
    is_strip = arguments.action == "strip"
    if not given and not is_strip:
        raise CommandError("Say what is to be changed: --title, --trigger and so on.")
    said = tools.restate(arguments.file, arguments.out, given, strip=is_strip)
    say(arguments.out)
    for key, value in sorted(said.items()):
        say(f"{key}: {value if len(value) <= 100 else value[:100] + '…'}")
    if "trigger_phrase" in given:
        say("A1111 shows a trigger from the .json beside the file, and not from the file itself.")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """A report on the home; 0 when nothing is left to worry about."""
    from studio.store import (
        StudioLock,
        database_complaints,
        differing_rows,
        home_warning,
        restore,
        snapshots,
    )

    home = home_folder(arguments)
    database = home / "studio.sqlite"
    if not database.exists() and not (home / "snapshots").exists():
        raise CommandError(f"There is no studio in {home} yet.")
    with StudioLock(home):  # nothing may change meanwhile
        if arguments.restore:
            snapshot = home / "snapshots" / arguments.restore  # a path from elsewhere stays one
            carried = restore(home, snapshot)
            say(f"{snapshot.name} is the database now; the old one is in {home / 'aside'}.")
            say(f"Newer rows that could still be read there, and were carried over: {carried}.")
        complaints = database_complaints(database) if database.exists() else ["it is missing"]
        if sentence := home_warning(home):
            say(sentence)
        say(f"Database: {'DAMAGED' if complaints else 'sound'}")
        _print_list(complaints)
        kept = snapshots(home)
        if kept and not complaints:
            complaints = differing_rows(database, kept[0].path)
            if complaints:
                say("Compared with the newest snapshot it is DAMAGED, or the snapshot is:")
                _print_list(complaints)
        problems = complaints or _look_at_rows(home) + _look_at_files(home)
        say(f"Snapshots: {len(kept)}")
        for one in kept:
            when = time.strftime("%d %b %Y, %H:%M", time.localtime(one.taken_at_s))
            say(f"  {one.path.name}   {when}, {one.picks} picks")
        if complaints and kept:
            say(f"To put one back: python launch.py doctor --restore {kept[0].path.name}")
        elif complaints:
            say("There is none to put back; the database was left as it is.")
    return 1 if problems else 0


def _look_at_rows(home: Path) -> list[str]:
    """Rows that make no sense are mended, or set aside; gives those that were set aside."""
    from studio.store import Store, mend_rows

    Store.open(home).close()  # as this version of the studio keeps them
    found = mend_rows(home)
    say(f"Rows: {found.looked_at}")
    for what, rows in (("mended", found.mended), ("damaged, and set aside", found.set_aside)):
        say(f"  {what}: {len(rows)}")
        _print_list(rows, "    ")
    if found.kept_in is not None:
        say(f"  The database as it was before is kept: {found.kept_in.name}")
    return found.set_aside


def _look_at_files(home: Path) -> list[str]:
    from studio.store import Store, examine_files

    with contextlib.closing(Store.open(home)) as store:
        found = examine_files(store)
    say(f"Files: {found.looked_at}; the checksum of {found.without_checksum} is not known")
    for what, paths in (
        ("missing", found.missing),
        ("damaged, and set aside", found.damaged),
        ("without a row, and set aside", found.orphaned),
    ):
        say(f"  {what}: {len(paths)}")
        _print_list(paths, "    ")
    if found.missing or found.damaged:
        say("  Pictures are drawn again when they are needed; a round learns without the rest.")
    return found.missing + found.damaged


def _print_list(lines: list[str], indent: str = "  ") -> None:
    for line in lines:
        say(f"{indent}{line}")


def report(arguments: argparse.Namespace) -> int:
    """The last errors, versions and the device; no prompts, names or paths."""
    from studio.runtime.support_report import report as made
    from studio.store import Store, StoreError

    home, device = home_folder(arguments), ""
    with contextlib.suppress(StoreError), contextlib.closing(Store.open(home)) as store:
        status = store.worker_status()
        device = status.device if status is not None else ""
    say(made(home, device), end="")
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Hand over to a module of `studio.bench`, or of its research."""
    name = arguments.benchmark.replace("-", "_")
    package = "studio.bench.research" if name in RESEARCH else "studio.bench"
    return importlib.import_module(f"{package}.{name}").main(arguments.rest) or 0


def test(arguments: argparse.Namespace) -> int:
    """Hand over to pytest."""
    return subprocess.call([sys.executable, "-m", "pytest", *arguments.rest], cwd=ROOT)


@contextlib.contextmanager
def _store(arguments: argparse.Namespace) -> Iterator[Store]:
    from studio.runtime import logs
    from studio.store import Store

    home = home_folder(arguments)
    with contextlib.closing(Store.open(home)) as store:
        logs.set_up(home, "command")
        yield store


def _wait_for_worker(home: Path, look: Callable[[], Found | None]) -> Found:
    """Look until there is something: at the work of a studio that runs, or of our own worker."""
    from studio.runtime.supervisor import Supervisor
    from studio.store import StoreLocked, StudioLock

    _end_on_sigterm()
    with contextlib.ExitStack() as held:
        own = None
        try:
            held.enter_context(StudioLock(home))
            own = held.enter_context(Supervisor(home))
        except StoreLocked:
            say("The studio that is open does the work.")
        while (found := look()) is None:
            if own is not None and own.deaths_in_a_row >= MOST_DEATHS:
                words = "\n".join(own.last_words)
                raise CommandError(f"The worker cannot run. The last it said was:\n{words}")
            time.sleep(POLL_S)
        return found


def _session(store: Store, wanted: str) -> Session:
    sessions = store.sessions()
    found = [one for one in sessions if wanted in (one.id, one.name)]
    if len(found) == 1:
        return found[0]
    listed = "\n".join(f"  {one.id}  {one.name}" for one in sessions) or "  none yet"
    what = "There is no session" if not found else "There is more than one session"
    raise CommandError(f"{what} called {wanted}. The sessions are:\n{listed}")


def _adapter(store: Store, session: Session, wanted: str | None) -> Adapter:
    adapters = store.adapters(session.id)
    if not adapters:
        raise CommandError(f"{session.name} has no adapter yet: train a round first.")
    wanted = wanted or session.current_adapter_id or adapters[-1].id
    for adapter in adapters:
        if wanted in (adapter.id, str(adapter.number)):
            return adapter
    numbers = ", ".join(str(adapter.number) for adapter in adapters)
    raise CommandError(f"{session.name} has no adapter {wanted}; it has {numbers}.")


def _copy_new(folder: Path, names: tuple[str, ...], out: Path) -> None:
    """Copy files to where they were asked for, never over others."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (out / name).exists():
            raise CommandError(f"There is a file {name} in {out} already: choose another --name.")
    for name in names:
        say(shutil.copy(folder / name, out / name))


def _progress(line: str, last: bool = False) -> None:
    """One line that is written over in a terminal; elsewhere only the last one is of use."""
    if sys.stdout.isatty():
        say(f"\r\x1b[K{line}", end="\n" if last else "")
    elif last:
        say(line)


if __name__ == "__main__":
    raise SystemExit(main())
