"""The command line as it is typed: the real studio on a real port, and the actions without it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from studio.cli.arguments import credentials, home_folder, parse
from studio.lora.export import check
from studio.lora.format import from_peft
from studio.settings import SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Session, Store
from tests.support.loras import write_lora
from tests.support.processes import surroundings, typed

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "studio", *map(str, arguments)]


def sentence(run: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """What was said when something could not be done: never a traceback."""
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    return run.stderr


class Served:
    """A studio that is open, and where."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""
        opened = threading.Event()

        def listen() -> None:
            for line in process.stdout:
                self.said += line
                if "End it with Ctrl+C" in line:
                    opened.set()
            opened.set()

        threading.Thread(target=listen, daemon=True).start()
        assert opened.wait(120), self.said
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.said)
        assert found, self.said
        self.url, self.port = found[0], int(found[1])

    def end(self, how: int = signal.SIGINT) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(home: Path, *arguments: object, **environment: str) -> Iterator[Served]:
    with subprocess.Popen(
        command("--no-browser", "--port", 0, "--home", home, *arguments),
        env=surroundings() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield Served(process)
        finally:
            if process.poll() is None:
                process.kill()


def status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


# --- the studio in the browser -------------------------------------------------------------------


def test_the_studio_opens_refuses_a_second_one_and_ends_with_ctrl_c(home):
    with serving(home) as studio:
        assert status(studio.url) == 200
        [worker] = psutil.Process(studio.process.pid).children()

        second = typed("--no-browser", "--port", 0, "--home", home)
        assert "already running" in sentence(second, code=2)

        third = typed("--no-browser", "--port", studio.port, "--home", home.parent / "other")
        assert f"Port {studio.port} cannot be used" in sentence(third)
        assert "--port" in third.stderr

        assert studio.end() == 0
        assert "Everything is kept" in studio.said
        assert "Traceback" not in studio.said
        assert not worker.is_running()
    with serving(home) as studio:  # the lock went with the first one
        assert status(studio.url) == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("http_proxy", "http://127.0.0.1:9", marks=pytest.mark.nightly),
        pytest.param("all_proxy", "socks://127.0.0.1:9", marks=pytest.mark.nightly),
        ("HTTPS_PROXY", "http://[::1"),
        pytest.param("no_proxy", "[::1", marks=pytest.mark.nightly),
        ("SSL_CERT_FILE", "/no/such/file"),
    ],
)
def test_what_the_environment_says_of_the_network_keeps_it_from_nothing(home, name, value):
    """It starts, says where it is open, and its worker has the environment as it was."""
    with serving(home, **{name: value}) as studio:
        [worker] = psutil.Process(studio.process.pid).children()
        assert worker.environ()[name] == value
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert direct.open(f"{studio.url}/studio/favicon.svg").status == 200
        assert studio.end() == 0


def test_a_new_home_has_its_first_pictures_asked_for_before_a_page_is_opened(home):
    with serving(home) as studio, contextlib.closing(Store.open(home)) as store:
        session = store.session(store.last_session_id())
        assert session.settings.prompts
        assert [job.kind for job in store.jobs(session.id)] == ["preview"]
        assert studio.end() == 0


def test_a_polite_kill_ends_the_worker_too(home):
    with serving(home) as studio:
        [worker] = psutil.Process(studio.process.pid).children()
        studio.end(signal.SIGTERM)
        assert not worker.is_running()


def test_only_with_a_password_may_others_come_in(home):
    with serving(home, "--listen", D3PO_STUDIO_AUTH="ada:love:lace") as studio:
        assert studio.said.count("http://") == 2
        given = base64.b64encode(b"ada:love:lace").decode()
        wrong = base64.b64encode(b"ada:lace").decode()
        assert status(studio.url) == 401
        assert status(studio.url, Authorization=f"Basic {wrong}") == 401
        assert status(studio.url, Authorization=f"Basic {given}") == 200


def test_a_store_from_a_newer_studio_is_left_alone(home):
    Store.open(home).close()
    with contextlib.closing(sqlite3.connect(home / "studio.sqlite")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = (home / "studio.sqlite").read_bytes()
    said = sentence(typed("--no-browser", "--port", 0, "--home", home))
    assert "newer" in said
    assert (home / "studio.sqlite").read_bytes() == before


def test_what_should_not_happen_is_a_sentence_and_a_log(home):
    home.mkdir()
    (home / "studio.lock").touch()
    (home / "studio.sqlite").mkdir()  # of all things
    said = sentence(typed("--no-browser", "--port", 0, "--home", home))
    assert len(said.splitlines()) <= 3


# --- arguments ---------------------------------------------------------------------------------


def test_a_home_may_stand_before_and_after_the_command(monkeypatch):
    monkeypatch.delenv("D3PO_STUDIO_HOME", raising=False)
    for arguments in (["--home", "/h", "train", "--session", "x"], ["--home=/h"]):
        assert home_folder(parse(arguments)) == Path("/h")
    assert home_folder(parse(["train", "--session", "x", "--home", "/h"])) == Path("/h")
    assert home_folder(parse([])).name == "d3po-studio"
    monkeypatch.setenv("D3PO_STUDIO_HOME", "/from/environment")
    assert home_folder(parse([])) == Path("/from/environment")
    assert home_folder(parse(["--home", "/h"])) == Path("/h")


def test_what_follows_test_and_bench_is_passed_on_as_it_is():
    assert parse(["test", "-k", "x", "--", "tests/a.py"]).rest == ["-k", "x", "--", "tests/a.py"]
    assert parse(["bench", "clicks", "--help"]).rest == ["--help"]
    assert parse(["--port", "1"]).rest == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "65536"],
        ["--port", "-1"],
        ["--auth", "only-a-name"],
        ["--proxy", "proxy.example"],
        ["--listen"],
        ["generate"],
        ["generate", "x", "--size", "big"],
        ["generate", "x", "--count", "0"],
        ["generate", "x", "--best-of", "0"],
        ["generate", "x", "--strength", "-1.5"],
        ["generate", "x", "--strength", "much"],
        ["export", "--session", "x", "--out", "y", "--strength", "0"],
        ["export", "--session", "x"],
        ["bench", "nonsense"],
    ],
)
def test_mistakes_are_explained(arguments, capsys, monkeypatch):
    monkeypatch.delenv("D3PO_STUDIO_AUTH", raising=False)
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_the_password_comes_from_the_arguments_or_the_environment(monkeypatch):
    monkeypatch.setenv("D3PO_STUDIO_AUTH", "ada:lovelace")
    assert credentials(parse(["--listen"])) == ("ada", "lovelace")
    assert credentials(parse(["--auth", "eve:one:two"])) == ("eve", "one:two")
    monkeypatch.setenv("D3PO_STUDIO_AUTH", "ada")
    with pytest.raises(SystemExit):
        credentials(parse([]))


# --- the same actions without a browser ----------------------------------------------------------

QUICK = SamplingSettings(steps=2, width_px=64, height_px=64)


@pytest.fixture(scope="module")
def drawn(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a session and six picks on pairs that a worker drew; to be copied."""
    from studio.worker.loop import Worker

    home = tmp_path_factory.mktemp("drawn") / "home"
    settings = SessionSettings(
        base_model=str(tiny_model),
        prompts=("a cat", "a dog"),
        sampling=QUICK,
        training=TrainingSettings(updates_base=2, updates_per_pick=0, rank=2, alpha=1.0),
        queue_target=6,
        live=False,
    )
    with contextlib.closing(Store.open(home)) as store:
        session = store.create_session("Blue: things/", settings)
        store.set_last_session(session.id)
        worker = Worker(store, "cpu")
        while worker.work():
            pass
        for number, pair in enumerate(store.waiting_pairs(session.id, 6)):
            store.add_answer(f"{number:032x}", pair.id, "left" if number % 2 else "right")
    return home


@pytest.fixture
def picked(home: Path, drawn: Path) -> Session:
    shutil.copytree(drawn, home)
    with contextlib.closing(Store.open(home)) as store:
        [session] = store.sessions()
    return session


@pytest.mark.slow
def test_train_and_export_without_a_browser(home, picked, tmp_path):
    nothing_yet = typed("export", "--home", home, "--session", picked.id, "--out", tmp_path / "o")
    assert "train a round first" in sentence(nothing_yet)

    trained = typed("train", "--home", home, "--session", picked.name)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert trained.stdout == "Round 1: Done.\n"

    out = tmp_path / "lora"
    export = ["export", "--home", home, "--session", picked.name, "--out", out]
    exported = typed(*export, "--trigger", "bluish", "--notes", "Blue.", "--author", "Ada")
    assert exported.returncode == 0, exported.stdout + exported.stderr
    files = {path.name: path for path in out.iterdir()}
    assert {"Blue things.safetensors", "Blue things-diffusers.safetensors"} <= set(files)
    assert json.loads(files["Blue things.json"].read_bytes())["activation text"] == "bluish"
    assert all(str(path) in exported.stdout for path in files.values())

    with contextlib.closing(Store.open(home)) as store:
        [adapter] = store.adapters(picked.id)
        folder = store.adapter_path(adapter)
    from safetensors.torch import load_file

    memory = from_peft(load_file(folder / "adapter_model.safetensors"), rank=2, alpha=1.0)
    assert check(files["Blue things.safetensors"], "kohya", memory, "sd1")

    again = typed(*export)
    assert "already" in sentence(again)
    assert typed(*export, "--name", "second", "--format", "kohya").returncode == 0
    assert (out / "second.safetensors").exists()
    assert not (out / "second-diffusers.safetensors").exists()
    assert "has no adapter 7; it has 1" in sentence(typed(*export, "--adapter", 7, "--name", "x"))


@pytest.mark.slow
def test_picks_go_out_and_come_in_as_a_session(home, picked, tiny_model, tmp_path):
    out = tmp_path / "picks"
    exported = typed("picks", "export", "--home", home, "--session", picked.id, "--out", out)
    assert exported.returncode == 0, exported.stdout + exported.stderr
    assert exported.stdout == f"6 picks are in {out}.\n"
    given = ["picks", "import", out, "--home", home, "--model", tiny_model]
    taken = typed(*given, "--name", "Mine", "--size", "64x64", "--device", "cpu")
    assert taken.returncode == 0, taken.stdout + taken.stderr
    assert "Mine: 6 picks" in taken.stdout
    assert "D3PO cannot" in taken.stdout
    with contextlib.closing(Store.open(home)) as store:
        [mine] = [one for one in store.sessions() if one.name == "Mine"]
        choices = [one.pick.choice for one in store.picked_pairs(mine.id)]
        assert choices == [one.pick.choice for one in store.picked_pairs(picked.id)]
    assert "holds no picks" in sentence(typed("picks", "import", home / "logs", "--home", home))


def test_loras_are_blended_and_resized(tmp_path):
    import torch
    from safetensors.torch import save_file

    for name in ("a", "b"):
        halves = {"x.lora_down.weight": torch.eye(2, 4), "x.lora_up.weight": torch.eye(3, 2)}
        save_file(halves, tmp_path / f"{name}.safetensors")
    files, out = (
        [tmp_path / "a.safetensors", tmp_path / "b.safetensors"],
        tmp_path / "c.safetensors",
    )
    assert "2 files and 1 strengths" in sentence(
        typed("lora", "blend", *files, "--strengths", "1", "--out", out)
    )
    blended = typed("lora", "blend", *files, "--strengths", "1", "2", "--out", out)
    assert blended.returncode == 0, blended.stderr
    assert "1 layers of rank 4" in blended.stdout
    resized = typed("lora", "resize", out, "--rank", 1, "--out", tmp_path / "d.safetensors")
    assert "keeps 70.7 % of its change" in resized.stdout
    assert "already" in sentence(typed("lora", "resize", out, "--rank", 1, "--out", out))
    edit = ["lora", "edit", out, "--out", tmp_path / "e.safetensors"]
    assert "Name at least one field" in sentence(typed(*edit))
    edited = typed(*edit, "--title", "Mine", "--trigger", "bluish")
    assert "modelspec.trigger_phrase: bluish" in edited.stdout
    assert "A1111 shows the trigger of the .json" in edited.stdout
    stripped = typed("lora", "strip", edit[-1], "--out", tmp_path / "f.safetensors")
    assert stripped.returncode == 0, stripped.stderr
    assert "bluish" not in stripped.stdout
    assert "modelspec.title: f" in stripped.stdout


def test_a_session_that_is_not_there_is_answered_with_those_that_are(home):
    with contextlib.closing(Store.open(home)) as store:
        store.create_session("One", SessionSettings(prompts=("a cat",)))
    said = sentence(typed("train", "--home", home, "--session", "Two"))
    assert "There is no session called Two" in said
    assert "One" in said


def test_train_changes_how_a_session_learns(home):
    with contextlib.closing(Store.open(home)) as store:
        store.create_session("One", SessionSettings(prompts=("a cat",)))
    train = ["train", "--home", home, "--session", "One", "--set"]
    assert "needs at least 4 picks" in sentence(typed(*train, "keep_to_prompt=1", "orders=list"))
    with contextlib.closing(Store.open(home)) as store:
        [session] = store.sessions()
    assert session.settings.training == TrainingSettings(keep_to_prompt=1.0, orders="list")
    assert "Unknown setting: speed." in sentence(typed(*train, "speed=1"))
    assert "Unknown way to count an order" in sentence(typed(*train, "orders=best"))
    assert "train a round first" in sentence(typed(*train, "beside=One"))


@pytest.mark.slow
def test_generate_draws_files_that_depend_on_the_seed_alone(tmp_path, tiny_model):
    def drawn(folder: str, *arguments: object) -> dict[str, bytes]:
        out = tmp_path / folder
        options = ["--model", tiny_model, "--steps", 2, "--size", "64x64", "--out", out]
        run = typed("generate", *options, *arguments)
        assert run.returncode == 0, run.stdout + run.stderr
        assert run.stdout.splitlines() == [str(path) for path in sorted(out.iterdir())]
        return {path.name: Image.open(path).tobytes() for path in out.iterdir()}

    three = drawn("three", "a cat", "a/dog", "--count", 2, "--seed", 5)
    assert sorted(three) == [
        "001 5 a cat.png",
        "001 6 a cat.png",
        "002 5 a dog.png",
        "002 6 a dog.png",
    ]
    assert len(set(three.values())) == 4
    one = drawn("one", "a cat", "--seed", 6)
    assert one == {"001 6 a cat.png": three["001 6 a cat.png"]}


@pytest.mark.slow
def test_generate_keeps_the_best_of_many(tmp_path, tiny_model):
    """One of the seeds of each picture; without a LoRA there is nothing to rank by."""
    lora, out = write_lora(tmp_path / "taste.safetensors", tiny_model), tmp_path / "out"
    options = ["a cat", "--model", tiny_model, "--steps", 2, "--size", "64x64", "--best-of", 3]
    run = typed("generate", *options, "--out", out)
    assert "name it by --lora" in sentence(run)
    assert not out.exists()
    options += ["--lora", lora, "--count", 2]
    assert typed("generate", *options, "--out", out).returncode == 0
    first, second = sorted(int(path.name.split()[1]) for path in out.iterdir())
    assert 0 <= first < 3 <= second < 6
    again = tmp_path / "again"
    assert typed("generate", *options, "--out", again).returncode == 0
    assert [p.name for p in sorted(out.iterdir())] == [p.name for p in sorted(again.iterdir())]


def test_a_model_that_is_not_there_is_a_sentence(tmp_path):
    run = typed("generate", "a cat", "--model", tmp_path / "nothing", "--out", tmp_path / "out")
    assert "There is no model at" in sentence(run)
    assert not (tmp_path / "out").exists()


def test_settings_out_of_range_are_a_sentence(tmp_path, tiny_model):
    run = typed("generate", "a cat", "--model", tiny_model, "--steps", 0, "--out", tmp_path)
    assert "Steps must be between" in sentence(run)


def test_a_port_that_is_taken_by_anything_is_a_sentence(home):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = sentence(typed("--no-browser", "--port", port, "--home", home))
    assert f"Port {port} cannot be used" in said


@pytest.mark.parametrize(
    "encoding",
    [
        pytest.param("cp1252", marks=pytest.mark.nightly),
        "ascii",
        pytest.param("utf-8", marks=pytest.mark.nightly),
    ],
)
def test_no_print_ends_the_work(tmp_path, encoding):
    """Every prompt is drawn, though the console may have no letters for it."""
    prompts = ("一只猫", "a lion \N{LION FACE}", "лев")
    options = ("--out", tmp_path, "--home", tmp_path / "home", "--steps", 2, "--device", "cpu")
    run = subprocess.run(
        command("generate", *prompts, *options),
        env=surroundings() | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == len(list(tmp_path.glob("*.png"))) == len(prompts)


def test_a_print_that_cannot_be_read_ends_nothing(tmp_path):
    script = (
        "import os, sys; from studio.cli.errors import say; read, write = os.pipe(); "
        "os.close(read); os.dup2(write, 1); say('one'); say('two'); open(sys.argv[1], 'w').close()"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "done")],
        env=surroundings(),
        capture_output=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, b"")
    assert (tmp_path / "done").exists()
