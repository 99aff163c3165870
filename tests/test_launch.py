"""`launch.py` as it is, with real pip and real environments; only the parts it installs are small.

The parts are wheels made here, served by a registry on this machine that notes what it is asked.
"""

from __future__ import annotations

import ast
import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import launch

ROOT = Path(__file__).resolve().parents[1]

PYPROJECT = """
[project]
name = "d3po-studio"
dependencies = ["torch==2.13.0", "part==1.0"]
[project.optional-dependencies]
test = ["pytest==9.0"]
bench = []
starter = []
"""

# Stand in for the studio that launch.py hands over to: its parser, and what it was given.
ARGUMENTS = """
import argparse

def parse(argv):
    return argparse.Namespace(command=argv[0] if argv else "serve")
"""
STUDIO = """
import importlib.metadata, json, sys

if __name__ == "__main__":
    names = (d.metadata["name"] for d in importlib.metadata.distributions())
    parts = {n: importlib.metadata.version(n) for n in names}
    print("STUDIO", json.dumps({"argv": sys.argv[1:], "prefix": sys.prefix, "parts": parts}))
    sys.exit(7 if sys.argv[1:] == ["fail"] else 0)
"""


def make_wheel(folder: Path, name: str, version: str) -> None:
    """A wheel with one module that says its version."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    contents = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in {**contents, f"{info}/RECORD": record}.items():
            wheel.writestr(path, text)


@dataclass
class Registry:
    """A package registry at `url`/simple, and PyTorch's own indexes at `url`/whl."""

    folder: Path
    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    folder = tmp_path / "registry"
    make_wheel(folder / "simple/torch", "torch", "2.13.0")
    make_wheel(folder / "simple/part", "part", "1.0")
    make_wheel(folder / "simple/part", "part", "2.0")
    make_wheel(folder / "simple/pytest", "pytest", "9.0")
    for tag in ("cpu", "cu126", "cu130", "rocm7.2"):
        make_wheel(folder / f"whl/{tag}/torch", "torch", f"2.13.0+{tag}")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            found.asked.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    found = Registry(folder, f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


@dataclass
class Machine:
    """A folder with launch.py in it, and the surroundings in which it is started."""

    folder: Path
    environment: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(self.folder / "launch.py"), *arguments]

    def start(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.folder.parent,  # launch.py is found from anywhere
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def environment_folder(self) -> Path:
        return self.folder / ".venv"

    def add_nvidia_gpu(self, cuda: str) -> None:
        """A driver's `nvidia-smi`, which is all that shows a GPU before PyTorch is there."""
        tools = self.folder.parent / "tools"
        tools.mkdir()
        tool = tools / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\necho '| Driver Version: 1  CUDA Version: {cuda} |'\n")
        tool.chmod(0o755)
        self.environment["PATH"] = f"{tools}{os.pathsep}{self.environment['PATH']}"


@pytest.fixture
def machine(tmp_path: Path, registry: Registry) -> Machine:
    folder = tmp_path / "a folder with spaces"
    (folder / "studio" / "cli").mkdir(parents=True)
    shutil.copy(ROOT / "launch.py", folder)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "studio" / "__init__.py").touch()
    (folder / "studio" / "__main__.py").write_text(STUDIO)
    (folder / "studio" / "cli" / "arguments.py").write_text(ARGUMENTS)
    # Nothing of this machine's own settings for pip, and no GPU it may have.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "D3PO_"))}
    environment |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"{registry.url}/simple",
        "PIP_RETRIES": "0",
        "D3PO_STUDIO_TORCH_INDEX": f"{registry.url}/whl",
        "PATH": os.pathsep.join(
            place
            for place in os.environ["PATH"].split(os.pathsep)
            if not Path(place, "nvidia-smi").exists()
        ),
    }
    return Machine(folder, environment)


def studio_that_ran(run: subprocess.CompletedProcess[str]) -> dict:
    assert "STUDIO " in run.stdout, run.stdout + run.stderr
    return json.loads(run.stdout.split("STUDIO ")[1])


pytestmark = pytest.mark.skipif(
    Path("/dev/kfd").exists() or sys.platform == "darwin", reason="is about a machine without a GPU"
)


def test_the_first_start_sets_up_and_the_second_only_starts(machine, registry):
    first = machine.start("--port", "1234", "--home", "my home")
    studio = studio_that_ran(first)
    assert studio["argv"] == ["--port", "1234", "--home", "my home"]
    assert Path(studio["prefix"]) == machine.environment_folder
    assert studio["parts"]["torch"] == "2.13.0+cpu"
    assert studio["parts"]["part"] == "1.0"
    assert "pytest" not in studio["parts"]
    assert "This happens once" in first.stdout
    assert str(machine.environment_folder) in first.stdout
    assert "no GPU" in first.stdout
    assert "Successfully installed part-1.0" in first.stdout  # pip's own words

    registry.asked.clear()
    second = machine.start("fail")
    assert studio_that_ran(second)["argv"] == ["fail"]
    assert second.returncode == 7  # the studio's own
    assert second.stdout.startswith("STUDIO")
    assert registry.asked == []


def test_what_a_command_needs_besides_is_added_and_stays(machine, registry):
    assert "pytest" in studio_that_ran(machine.start("test"))["parts"]
    after = machine.start()
    assert after.stdout.startswith("STUDIO")
    registry.asked.clear()
    (machine.folder / "pyproject.toml").write_text(PYPROJECT.replace("part==1.0", "part==2.0"))
    updated = machine.start()
    assert "Updating" in updated.stdout
    assert not any("torch" in path for path in registry.asked)  # it is there, and stays
    parts = studio_that_ran(updated)["parts"]
    assert parts["part"] == "2.0"
    assert "pytest" in parts


def test_an_interrupted_set_up_goes_on(machine):
    with subprocess.Popen(
        machine.command(),
        env=machine.environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        for line in process.stdout:
            if "installing the suitable PyTorch" in line:
                os.killpg(process.pid, signal.SIGKILL)
    assert not list(machine.environment_folder.glob("studio-is-ready*"))
    assert studio_that_ran(machine.start())["parts"]["part"] == "1.0"


def test_a_broken_environment_is_made_anew(machine):
    studio_that_ran(machine.start())
    [stamp] = machine.environment_folder.glob("studio-is-ready*")
    stamp.write_text("{ half a")
    [pip] = machine.environment_folder.glob("lib/*/site-packages/pip")
    shutil.rmtree(pip)
    assert studio_that_ran(machine.start())["parts"]["part"] == "1.0"
    # As when the Python it was made with has been removed.
    (machine.environment_folder / "bin" / "python").unlink()
    assert studio_that_ran(machine.start())["parts"]["part"] == "1.0"


@pytest.mark.parametrize(("cuda", "tag"), [("12.8", "cu126"), ("13.0", "cu130")])
def test_an_nvidia_gpu_gets_the_build_its_driver_can_run(cuda, tag, machine):
    machine.add_nvidia_gpu(cuda)
    run = machine.start()
    assert studio_that_ran(run)["parts"]["torch"] == f"2.13.0+{tag}"
    # The wheel made here can do nothing with a GPU, and that is said.
    assert "The studio will run on the processor" in run.stdout


def test_a_gpu_that_comes_later_is_noticed(machine):
    assert studio_that_ran(machine.start())["parts"]["torch"] == "2.13.0+cpu"
    machine.add_nvidia_gpu("13.0")
    assert studio_that_ran(machine.start())["parts"]["torch"] == "2.13.0+cu130"
    assert machine.start().stdout.startswith("STUDIO")


def test_without_the_gpu_build_the_cpu_build_is_taken(machine, registry):
    machine.add_nvidia_gpu("13.0")
    shutil.rmtree(registry.folder / "whl/cu130")
    assert studio_that_ran(machine.start())["parts"]["torch"] == "2.13.0+cpu"


def test_without_pytorch_s_index_the_ordinary_registry_will_do(machine):
    machine.environment["D3PO_STUDIO_TORCH_INDEX"] = "http://127.0.0.1:9/whl"
    run = machine.start()
    assert studio_that_ran(run)["parts"]["torch"] == "2.13.0"
    assert "cannot be reached; trying elsewhere" in run.stdout


def refused(run: subprocess.CompletedProcess[str]) -> str:
    """The last paragraph of what was said, when the set-up did not succeed."""
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    return run.stderr.split("\n\n")[-1]


def test_without_a_network_it_says_so_and_goes_on_later(machine, registry):
    machine.environment["D3PO_STUDIO_TORCH_INDEX"] = "http://127.0.0.1:9/whl"
    machine.environment |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    assert "Check this machine's connection to the internet." in refused(machine.start())
    machine.environment["PIP_INDEX_URL"] = f"{registry.url}/simple"
    assert studio_that_ran(machine.start())["parts"]["part"] == "1.0"


def test_a_part_that_does_not_exist_for_this_machine_is_named(machine, registry):
    shutil.rmtree(registry.folder / "simple/part")
    assert "There is no build of part==1.0 for Python 3." in refused(machine.start())


def test_python_without_venv_is_told_how_to_get_it(machine, tmp_path):
    # As Debian leaves it out.
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import sys; sys.modules['ensurepip'] = None")
    machine.environment["PYTHONPATH"] = str(site)
    assert "sudo apt install python3." in refused(machine.start())


@pytest.mark.skipif(os.name != "posix", reason="takes the lock as POSIX has it")
def test_two_set_ups_at_once_do_not_disturb_each_other(machine):
    import fcntl

    with (machine.folder / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "Another start of launch.py is setting up" in refused(machine.start())
    assert studio_that_ran(machine.start())


def test_too_little_disk_space_is_said_before_anything_is_made(machine):
    source = (machine.folder / "launch.py").read_text()
    (machine.folder / "launch.py").write_text(source.replace('"cpu": 4}', '"cpu": 10**9}'))
    assert "GB are free" in refused(machine.start())
    assert not machine.environment_folder.exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_a_sentence(machine):
    machine.folder.chmod(0o555)
    try:
        assert "could not be set up" in refused(machine.start())
    finally:
        machine.folder.chmod(0o755)


@pytest.mark.parametrize(
    ("complaint", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left", "full"),
        ("WARNING: Retrying after connection broken by 'NewConnectionError(…)'", "internet"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no build of torch==2.13.0"),
        ("ERROR: something new", "something new"),
    ],
)
def test_what_pip_complains_of_becomes_a_sentence(complaint, sentence):
    assert sentence in launch.explain(complaint)


def test_an_old_python_is_told_in_a_sentence():
    source = (ROOT / "launch.py").read_text("utf-8")
    ast.parse(source, feature_version=(3, 7))  # or it could not even say so
    older = (
        "import runpy, sys; sys.version_info = (3, 10, 4); sys.version = '3.10.4 (main)';"
        "runpy.run_path('launch.py', run_name='__main__')"
    )
    run = subprocess.run(
        [sys.executable, "-c", older], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith(
        "D3PO Studio needs Python 3.11 or newer, and this is Python 3.10.4"
    )


def test_help_and_mistakes_are_answered_before_the_set_up(tmp_path):
    shutil.copy(ROOT / "launch.py", tmp_path)
    shutil.copytree(ROOT / "studio", tmp_path / "studio")
    for arguments, code, words in (
        (["--help"], 0, "COMMAND"),
        (["train", "--help"], 0, "--session"),
        (["--port", "x"], 2, "a port is a number"),
        (["--listen"], 2, "needs a name and a password"),
    ):
        run = subprocess.run(
            [sys.executable, "launch.py", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == code
        assert words in run.stdout + run.stderr
    assert not (tmp_path / ".venv").exists()


def test_everything_that_is_installed_is_pinned():
    for requirement in launch.requirements(("test", "starter")):
        assert "==" in requirement
