#!/usr/bin/env python3
"""D3PO Studio: `python launch.py`, and minutes later it opens in the browser.

The first start makes `.venv` beside this file and installs the dependencies of `pyproject.toml`,
with the build of PyTorch for this machine. Later starts run `python -m studio` at once, with all
arguments. This file uses only Python's standard library.

    python launch.py                 the studio
    python launch.py --help          everything else it can do
    python launch.py test            install the test tools, and run every test
"""

import sys

# Any Python may run this file: up to here, and in its whole syntax, it works with Python 3.6.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        f"D3PO Studio needs Python 3.11 or newer, and this is Python {sys.version.split()[0]}. "
        "Install a newer one from python.org or your system, and start launch.py with it."
    )

import contextlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = ENVIRONMENT / "studio-is-ready.json"  # written last: without it the set-up is incomplete
LOCK = HERE / ".venv.lock"

# Extra dependencies of commands.
EXTRAS = {"test": ("test", "bench", "starter"), "bench": ("bench",)}

# PyTorch's own index has the builds for all machines; the variable can name a mirror of it.
TORCH_INDEX = os.environ.get("D3PO_STUDIO_TORCH_INDEX", "https://download.pytorch.org/whl")
TORCH_TAGS = {"cpu": "cpu", "rocm": "rocm7.2"}  # "cuda" depends on the driver: see `cuda_tag`
MACHINES = {
    "cuda": "an NVIDIA GPU",
    "rocm": "an AMD GPU with ROCm",
    "mac": "a Mac",
    "cpu": "no GPU that PyTorch can use (the processor works too, but more slowly)",
}
NEEDED_GB = {"cuda": 12, "rocm": 25, "mac": 4, "cpu": 4}  # disk space, with room to unpack


class SetUpError(Exception):
    """The set-up failed; the message says why and what to do."""


def main(argv: list[str]) -> int:
    from studio.cli.arguments import parse  # needs only the standard library

    arguments = parse(argv)  # before the set-up: help and mistakes need none
    try:
        ensure_environment(EXTRAS.get(arguments.command, ()))
    except SetUpError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next start continues the set-up.", file=sys.stderr)
        return 130
    return hand_over([str(PYTHON), "-m", "studio", *argv])


def hand_over(command: list[str]) -> int:
    """Become the studio (on Windows: wait for it)."""
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if os.name == "posix":
        os.execve(command[0], command, environment)
    process = subprocess.Popen(command, env=environment)
    while True:
        with contextlib.suppress(KeyboardInterrupt):  # the studio also gets it, and ends itself
            return process.wait()


def say(sentence: str) -> None:
    print(sentence, flush=True)


# --- the environment ---------------------------------------------------------------------------


def ensure_environment(extras: tuple[str, ...]) -> None:
    """Install everything that the studio and `extras` need, unless it is installed already."""
    machine = find_machine()
    if is_ready(extras, machine):
        return
    try:
        with one_at_a_time():
            set_up(extras, machine)
    except OSError as error:
        raise SetUpError(f"The studio could not be set up in {HERE}: {error}.") from error


def is_ready(extras: tuple[str, ...], machine: str) -> bool:
    stamp = read_stamp()
    installed = set(stamp.get("requirements", ()))
    return (
        PYTHON.exists()
        and stamp.get("machine") == machine
        and installed.issuperset(requirements(extras))
    )


def set_up(extras: tuple[str, ...], machine: str) -> None:
    stamp = read_stamp()
    extras = tuple(sorted({*extras, *stamp.get("extras", ())}))
    first = not stamp
    if first:
        say(
            "Setting up D3PO Studio. This happens once and takes some minutes: its parts, mainly\n"
            f"PyTorch, are downloaded into {ENVIRONMENT}.\n"
            "Nothing else on this machine is changed; to undo it, delete that folder.\n"
        )
        check_disk_space(machine)
    else:
        say("Updating the studio's parts.")
    STAMP.unlink(missing_ok=True)
    make_environment()
    wanted = requirements(extras)
    torch = next(requirement for requirement in wanted if requirement.startswith("torch=="))
    if stamp.get("machine", machine) != machine:
        pip("uninstall", "--yes", "torch")  # else the other machine's build would stay installed
    if stamp.get("machine") != machine or torch not in stamp.get("requirements", ()):
        install_torch(torch, machine)
        say("\nInstalling everything else.")
    failure = pip("install", *wanted)
    if failure is not None:
        raise SetUpError(explain(failure))
    ready = {"machine": machine, "extras": extras, "requirements": wanted}
    draft = STAMP.with_suffix(".draft")
    draft.write_text(json.dumps(ready, indent=2), encoding="utf-8")
    draft.replace(STAMP)
    say("\nThe studio is set up." if first else "\nDone.")


def requirements(extras: tuple[str, ...]) -> list[str]:
    project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(part for extra in extras for part in optional[extra])]


def read_stamp() -> dict:
    try:
        return json.loads(STAMP.read_text("utf-8"))
    except (OSError, ValueError):  # missing or incomplete
        return {}


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """A lock against two set-ups at once; the system frees the lock of a dead process."""
    with LOCK.open("w") as file:
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SetUpError(
                "Another start of launch.py is setting up the studio. "
                "Wait until it is done, then start this one again."
            ) from None
        yield


def make_environment() -> None:
    """Make `.venv`, unless a working one exists."""
    if works([str(PYTHON), "-m", "pip", "--version"]):
        return
    if not all(importlib.util.find_spec(module) for module in ("venv", "ensurepip")):
        version = "{}.{}".format(*sys.version_info)
        raise SetUpError(
            "This Python lacks its module venv, which the studio needs. On Debian and Ubuntu "
            f"install it with: sudo apt install python{version}-venv"
        )
    say("Making the environment.")
    result = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)],
        check=False,
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        raise SetUpError(explain(result.stdout + result.stderr))


def works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def check_disk_space(machine: str) -> None:
    free_gb = shutil.disk_usage(HERE).free / 1e9
    if free_gb < NEEDED_GB[machine]:
        raise SetUpError(
            f"The studio needs about {NEEDED_GB[machine]} GB for its parts on this machine, and "
            f"only {free_gb:.1f} GB are free on the disk that holds {HERE}. "
            "Free some space, or move the studio's folder to another disk, and start again."
        )


# --- PyTorch -----------------------------------------------------------------------------------


def find_machine() -> str:
    """The kind of PyTorch for this machine: a key of `MACHINES`."""
    if sys.platform == "darwin":
        return "mac"
    if shutil.which("nvidia-smi"):
        return "cuda"
    if Path("/dev/kfd").exists():  # the device of AMD's compute driver on Linux
        return "rocm"
    return "cpu"


def cuda_tag() -> str:
    """The CUDA version of the PyTorch build, which must not be newer than the driver's."""
    result = subprocess.run(["nvidia-smi"], check=False, capture_output=True, text=True)
    version = re.search(r"CUDA Version:\s*(\d+)", result.stdout)
    return "cu126" if version and int(version[1]) < 13 else "cu130"


def torch_sources(machine: str) -> list[str]:
    """Indexes to try for PyTorch, the best first; the last one, "", is the ordinary registry."""
    if machine == "mac":
        return [""]
    tags = [cuda_tag() if machine == "cuda" else TORCH_TAGS[machine], TORCH_TAGS["cpu"]]
    return [*dict.fromkeys(f"{TORCH_INDEX}/{tag}" for tag in tags), ""]


def install_torch(torch: str, machine: str) -> None:
    say(f"This machine has {MACHINES[machine]}: installing the suitable PyTorch.")
    failure: str | None = "not tried"
    for index in torch_sources(machine):
        if index and not reachable(index):
            say(f"{index} cannot be reached; trying elsewhere.")
            continue
        failure = pip("install", torch, *(["--index-url", index] if index else []))
        if failure is None:
            break
    if failure is not None:
        raise SetUpError(explain(failure))
    gpu_is_used = "import torch; raise SystemExit(not torch.cuda.is_available())"
    if machine in ("cuda", "rocm") and not works([str(PYTHON), "-c", gpu_is_used]):
        say(
            f"\nNote: there is {MACHINES[machine]}, but the installed PyTorch cannot use it. The "
            "studio will run on the processor, slowly. If a newer driver is available, install it, "
            f"delete {ENVIRONMENT} and start again."
        )


def reachable(index: str) -> bool:
    """Whether an index answers. pip itself would wait and retry for minutes."""
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=10):
            return True
    except OSError:
        return False


# --- pip ---------------------------------------------------------------------------------------


def pip(*arguments: str) -> str | None:
    """Run pip with its own progress; gives its error output if it failed, else None."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    errors = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            errors.append(line)
    return None if process.returncode == 0 else "".join(errors)


def explain(output: str) -> str:
    """A sentence for the error output of pip or venv."""
    again = "The installed parts are kept: solve this problem and start again."
    if re.search(r"No space left on device|Errno 28|not enough space", output):
        return (
            f"The disk is full (the one that holds {HERE}, or the one for temporary files). {again}"
        )
    if re.search(
        r"connection broken|NewConnectionError|NameResolutionError|Failed to establish"
        r"|ConnectTimeoutError|ReadTimeoutError|ProxyError|SSLError|Network is unreachable",
        output,
    ):
        return (
            "The studio's parts could not be downloaded. Check this machine's connection to the "
            f"internet. {again}"
        )
    missing = re.search(r"No matching distribution found for (\S+)", output)
    if missing:
        return (
            f"There is no build of {missing[1]} for Python {platform.python_version()} on "
            f"{platform.system()} {platform.machine()}. Python 3.11, 3.12 or 3.13 may work: delete "
            f"{ENVIRONMENT}, and start launch.py with one of them."
        )
    return f"The set-up failed; the reason is in the lines above.\n{output[-2000:]}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
