#!/usr/bin/env python3
"""D3PO Studio: `python launch.py`, and minutes later it opens in the browser.

On the first start this makes `.venv` beside itself and installs into it what `pyproject.toml`
names, with the build of PyTorch that fits the machine; from then on it hands over at once to
`python -m studio`, with all its arguments. Only Python's standard library is used here.

    python launch.py                 the studio
    python launch.py --help          everything else it can do
    python launch.py test            install the test tools too, and run every test
"""

import sys

# Whoever runs this may have any Python: up to here, and in its syntax, it suits 3.6 as well.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        f"D3PO Studio needs Python 3.11 or newer, and this is Python {sys.version.split()[0]}. "
        "Get a newer one from python.org or your system, and start launch.py with it."
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
STAMP = ENVIRONMENT / "studio-is-ready.json"  # written last: without it the set-up is not whole
LOCK = HERE / ".venv.lock"

# What a command needs besides.
EXTRAS = {"test": ("test", "bench", "starter"), "bench": ("bench",)}

# PyTorch keeps its builds for other machines than the ordinary registry does on an index of its
# own; a mirror of it can be named instead.
TORCH_INDEX = os.environ.get("D3PO_STUDIO_TORCH_INDEX", "https://download.pytorch.org/whl")
TORCH_TAGS = {"cpu": "cpu", "rocm": "rocm7.2"}  # "cuda" depends on the driver: see `cuda_tag`
MACHINES = {
    "cuda": "an NVIDIA GPU",
    "rocm": "an AMD GPU with ROCm",
    "mac": "a Mac",
    "cpu": "no GPU that PyTorch can use (it works on the processor too, only more slowly)",
}
NEEDED_GB = {"cuda": 12, "rocm": 25, "mac": 4, "cpu": 4}  # disk space, with room to unpack


class SetUpError(Exception):
    """The set-up cannot go on; the message says why and what to do."""


def main(argv: list[str]) -> int:
    from studio.cli.arguments import parse  # imports nothing that is not there yet

    arguments = parse(argv)  # before the set-up: help and mistakes are answered at once
    try:
        ensure_environment(EXTRAS.get(arguments.command, ()))
    except SetUpError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next start goes on with the set-up.", file=sys.stderr)
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
        with contextlib.suppress(KeyboardInterrupt):  # the studio gets it too, and ends by itself
            return process.wait()


def say(sentence: str) -> None:
    print(sentence, flush=True)


# --- the environment ---------------------------------------------------------------------------


def ensure_environment(extras: tuple[str, ...]) -> None:
    """Have everything installed that the studio and `extras` need; do nothing when it is."""
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
            "Setting up D3PO Studio. This happens once and takes some minutes: its parts, PyTorch\n"
            f"above all, are downloaded and put into {ENVIRONMENT}.\n"
            "Nothing else on this machine is changed; to undo it, delete that folder.\n"
        )
        check_disk_space(machine)
    else:
        say("Bringing the studio's parts up to date.")
    STAMP.unlink(missing_ok=True)
    make_environment()
    wanted = requirements(extras)
    torch = next(requirement for requirement in wanted if requirement.startswith("torch=="))
    if stamp.get("machine", machine) != machine:
        pip("uninstall", "--yes", "torch")  # or the other machine's build would count as installed
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
    except (OSError, ValueError):  # not there, or not whole
        return {}


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two starts at once would install over each other; the system frees the lock of a dead one."""
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
                "The studio is being set up by another start of launch.py. "
                "Wait until that one is done, then start this one again."
            ) from None
        yield


def make_environment() -> None:
    """Make `.venv`, unless there is one that works."""
    if works([str(PYTHON), "-m", "pip", "--version"]):
        return
    if not all(importlib.util.find_spec(module) for module in ("venv", "ensurepip")):
        version = "{}.{}".format(*sys.version_info)
        raise SetUpError(
            "This Python comes without its module venv, which the studio needs. On Debian and "
            f"Ubuntu install it with: sudo apt install python{version}-venv"
        )
    say("Making the environment.")
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)],
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        raise SetUpError(explain(made.stdout + made.stderr))


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
    """Which kind of PyTorch this machine can use: a key of `MACHINES`."""
    if sys.platform == "darwin":
        return "mac"
    if shutil.which("nvidia-smi"):
        return "cuda"
    if Path("/dev/kfd").exists():  # the device of AMD's compute driver, on Linux only
        return "rocm"
    return "cpu"


def cuda_tag() -> str:
    """The CUDA that PyTorch must be built with: a driver runs nothing newer than itself."""
    found = subprocess.run(["nvidia-smi"], check=False, capture_output=True, text=True)
    version = re.search(r"CUDA Version:\s*(\d+)", found.stdout)
    return "cu126" if version and int(version[1]) < 13 else "cu130"


def torch_sources(machine: str) -> list[str]:
    """Where to look for PyTorch, best first; "" is the ordinary registry, which is always last."""
    if machine == "mac":
        return [""]
    tags = [cuda_tag() if machine == "cuda" else TORCH_TAGS[machine], TORCH_TAGS["cpu"]]
    return [*dict.fromkeys(f"{TORCH_INDEX}/{tag}" for tag in tags), ""]


def install_torch(torch: str, machine: str) -> None:
    say(f"This machine has {MACHINES[machine]}: installing the PyTorch that fits.")
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
            f"\nNote: there is {MACHINES[machine]}, but the PyTorch that was installed cannot use "
            "it. The studio will run on the processor, slowly. A newer driver may help; then "
            f"delete {ENVIRONMENT} and start again."
        )


def reachable(index: str) -> bool:
    """Asked beforehand, as pip would wait and retry for minutes."""
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=10):
            return True
    except OSError:
        return False


# --- pip ---------------------------------------------------------------------------------------


def pip(*arguments: str) -> str | None:
    """Run pip, its progress shown as it is; what it complained of when it failed, else None."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    complaints = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            complaints.append(line)
    return None if process.returncode == 0 else "".join(complaints)


def explain(complaints: str) -> str:
    """A sentence for what pip or venv complained of."""
    again = "What is installed so far is kept: start again when that is mended."
    if re.search(r"No space left on device|Errno 28|not enough space", complaints):
        return (
            f"The disk is full (the one that holds {HERE}, or the one for temporary files). {again}"
        )
    if re.search(
        r"connection broken|NewConnectionError|NameResolutionError|Failed to establish"
        r"|ConnectTimeoutError|ReadTimeoutError|ProxyError|SSLError|Network is unreachable",
        complaints,
    ):
        return (
            "The studio's parts could not be downloaded. Is this machine connected to the "
            f"internet? {again}"
        )
    missing = re.search(r"No matching distribution found for (\S+)", complaints)
    if missing:
        return (
            f"There is no build of {missing[1]} for Python {platform.python_version()} on "
            f"{platform.system()} {platform.machine()}. Python 3.11, 3.12 or 3.13 may do: start "
            f"launch.py with one of them after deleting {ENVIRONMENT}."
        )
    return f"The set-up did not succeed; the reason is in the lines above.\n{complaints[-2000:]}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
