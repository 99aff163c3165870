"""Hostile files and texts by the thousand: the studio must accept them or refuse with a sentence.

The code that reads them runs in its own process on examples of hypothesis. `torn`: the reader died,
raised an unexpected error, or accepted a damaged file. `hung`: an example took longer than ten
seconds. The system limits the memory: an example that needs more counts as torn.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image as Pictures
from PIL import PngImagePlugin
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from studio import models
from studio.bench.faults.examples import (
    archives,
    archives_of_wrong_values,
    changed,
    expansions,
    harmed,
    headers,
    json_values,
    pictures_of_programs,
    pngs,
    templates,
)
from studio.bench.faults.operations import ARCHIVE, Home, things
from studio.bench.faults.trial import Row
from studio.engine import trajectory
from studio.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from studio.lora.export import export_lora
from studio.lora.format import read as read_lora
from studio.lora.metadata import ExportInfo
from studio.pictures import files as picture_files
from studio.pictures import infotext
from studio.prompting import alternatives, emphasis
from studio.settings import SettingsError, TrainingSettings
from studio.store import Store, StoreError, examine_files, import_session
from studio.weights import read_header

QUICK_EXAMPLES, EXAMPLES = 30, 1000
LIMIT_S = 10.0  # per example
MEMORY_BYTES = 2_000_000_000  # for a reader, beyond the memory at its start
ROW_LIMIT_S = 3600.0


@dataclass
class Outcome:
    """The results of all examples of one kind."""

    tried: int = 0
    accepted: int = 0
    torn: int = 0
    hung: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """A kind of example. `reader` returns whether it accepts one; every exception is a fault."""

    what: str
    examples: Callable[[], Any]  # a hypothesis strategy
    reader: Callable[[Any], bool]
    share: float = 1.0  # of the number of examples; less for slow readers


def rows(
    homes: dict[str, Home],
    folder: Path,
    quick: bool,
    with_strace: bool,
    wanted: Callable[[str], bool],
) -> Iterator[Row]:
    try:
        import hypothesis  # noqa: F401
    except ImportError:
        print("Hostile files are left out: they need hypothesis, one of the test tools.")
        return
    names = [name for name in NAMES if wanted(f"hostile: {name}")]
    if not names:
        return
    kinds = {kind.what: kind for kind in kinds_of(homes["new"], folder)}
    for name in names:
        number = int((QUICK_EXAMPLES if quick else EXAMPLES) * kinds[name].share)
        outcome = in_a_process(lambda name=name, number=number: tries(kinds[name], number))
        counts = outcome.tried, 0, outcome.torn, outcome.hung, outcome.problems
        row = Row(f"hostile: {name}", *counts)
        if not outcome.accepted:
            row.problems.append("no example was accepted: they prove nothing")
        yield row


def in_a_process(call: Callable[[], Outcome]) -> Outcome:
    """The result of `call` from a child process, which it may crash."""
    import resource  # does not exist on Windows, where this file is imported too

    with tempfile.TemporaryFile() as answer:
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                signal.alarm(int(ROW_LIMIT_S))
                torch.set_num_threads(1)  # other threads did not survive the fork
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, 2)  # discards the libraries' complaints
                faulthandler.disable()
                used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf(
                    "SC_PAGE_SIZE"
                )
                most = used + MEMORY_BYTES
                resource.setrlimit(resource.RLIMIT_AS, (most, most))
                answer.write(pickle.dumps(call()))
                answer.flush()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        answer.seek(0)
        text = answer.read()
        if text:
            return pickle.loads(text)
        return Outcome(1, 0, 1, 0, [f"the process died: status {status}"])


def tries(kind: Kind, number: int) -> Outcome:
    """Try `number` examples, always the same ones."""
    from hypothesis import HealthCheck, Phase, given, settings

    outcome = Outcome()

    @settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.examples())
    def try_one(example: Any) -> None:
        if outcome.tried >= number:
            return
        outcome.tried += 1
        started_s = time.monotonic()
        try:
            outcome.accepted += bool(kind.reader(example))
        except BaseException:
            outcome.torn += 1
            outcome.problems.append(f"{example!r:.300}: {traceback.format_exc()[-1200:]}")
        if time.monotonic() - started_s > LIMIT_S:
            outcome.hung += 1
            outcome.problems.append(f"{example!r:.300}: {time.monotonic() - started_s:.0f} s")

    while outcome.tried < number:  # hypothesis skips examples that it has tried before
        before = outcome.tried
        try_one()
        if outcome.tried == before:
            break
    return outcome


# --- readers -------------------------------------------------------------------------------------

NAMES = (
    "headers of models",
    "models, harmed",
    "folders of models",
    "LoRA files",
    "adapters from an archive",
    "latents from an archive",
    "settings in a PNG",
    "pictures from an archive",
    "archives, harmed",
    "archives with other rows",
    "prompts",
    "prompts that expand",
    "archives with wrong values in every column",
    "settings of other programs",
)


def kinds_of(home: Home, parent: Path) -> list[Kind]:
    """All readers of foreign files and texts, with examples that are nearly valid."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-", dir=parent))
    denoiser = models.load("starter", "cpu")

    def write(name: str, content: bytes) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    def model(content: bytes) -> bool:
        path = write("model.safetensors", content)
        with contextlib.suppress(models.ModelError):
            models.inspect(str(path))
        try:
            header = read_header(path)
        except models.ModelError:
            return False
        with safe_open(path, "pt") as file:  # the library must read an accepted file alike
            for name, entry in header.tensors.items():
                assert tuple(file.get_tensor(name).shape) == entry.shape
        return True

    def model_folder(document: dict[str, Any]) -> bool:
        target = folder / "model"
        for name in config:
            (target / name).write_text(json.dumps(document[name]), encoding="utf-8")
        try:
            models.inspect(str(target))
        except models.ModelError:
            return False
        return True

    def lora(content: bytes) -> bool:
        path = write("lora.safetensors", content)
        try:
            with denoiser.with_lora(read_lora(path)):
                return True
        except models.ModelError:
            return False
        finally:
            assert not denoiser.adapters.is_attached
            assert not getattr(denoiser.network, "peft_config", {})

    def adapter(example: tuple[bytes, Any]) -> bool:
        content, description = example
        (folder / "adapter").mkdir(exist_ok=True)
        write(f"adapter/{ADAPTER_FILE}", content)
        text = json.dumps(description).encode()
        write(f"adapter/{ADAPTER_CONFIG_FILE}", text)
        try:
            with denoiser.adapters.using(folder / "adapter"):
                return True
        except models.ModelError:
            return False
        finally:
            assert not getattr(denoiser.network, "peft_config", {})

    def latents(content: bytes) -> bool:
        try:
            trajectory.load(write("latents.safetensors", content))
        except (OSError, SafetensorError, ValueError):
            return False
        return True

    def settings_in_a_png(content: bytes) -> bool:
        try:
            infotext.write(picture_files.parameters_of(content))
        except infotext.ParametersError:
            return False
        return True

    def picture(content: bytes) -> bool:
        path = write("picture.png", content)
        try:
            picture_files.thumbnail(path, 144)
            picture_files.png_with_text(path, "Steps: 3")
            picture_files.sheet([("Round 1", [path])], ["a cat"])
        except OSError:
            return False
        return True

    store = Store.open(folder / "store")
    store.close()  # a connection must not be carried over into another process

    def archive(content: bytes) -> bool:
        before = {session.id for session in store.sessions()}
        try:
            session = import_session(store, write("session.zip", content))
        except StoreError:
            assert {session.id for session in store.sessions()} == before
            assert not any((store.home / "imports").glob("*"))
            return False
        things(store, session.id)
        report = examine_files(store)
        assert report.damaged + report.orphaned == []
        store.delete_session(session.id)
        return True

    def prompt(text: str) -> bool:
        assert all(0 <= weight <= 4 for _, weight in emphasis.weighted(text))
        with contextlib.suppress(infotext.ParametersError):
            infotext.read(text)
        try:
            alternatives.expand(text, 1, folder / "wildcards")
        except SettingsError:
            return False
        return True

    from hypothesis import strategies as st

    (folder / "wildcards").mkdir()
    (folder / "wildcards" / "animal.txt").write_text("cat\n__animal__ and {dog|__animal__}\n")
    picture_bytes, config = _png(), _starter_config(folder / "model")
    weights, description = _adapter(denoiser, folder / "good")
    descriptions = changed(description, json_values() | st.sampled_from([0, 3, 10**7, 2**40]))
    return [
        Kind("headers of models", headers, model),
        Kind("models, harmed", lambda: harmed(_model(folder)), model),
        Kind("folders of models", lambda: changed(config, json_values(), 1), model_folder),
        Kind("LoRA files", lambda: harmed(_lora(denoiser, folder)), lora),
        Kind(
            "adapters from an archive",
            lambda: (
                st.tuples(harmed(weights), st.just(description))
                | st.tuples(st.just(weights), descriptions)
            ),
            adapter,
        ),
        Kind("latents from an archive", lambda: harmed(_latents(home)), latents),
        Kind("settings in a PNG", lambda: pngs(picture_bytes), settings_in_a_png),
        Kind("pictures from an archive", lambda: pngs(picture_bytes), picture),
        Kind("archives, harmed", lambda: harmed((parent / ARCHIVE).read_bytes()), archive, 0.5),
        Kind("archives with other rows", lambda: archives(parent / ARCHIVE), archive, 0.5),
        Kind("prompts", templates, prompt),
        Kind("prompts that expand", expansions, prompt),
        Kind(
            "archives with wrong values in every column",
            lambda: archives_of_wrong_values(parent / ARCHIVE),
            archive,
            0.5,
        ),
        Kind("settings of other programs", pictures_of_programs, settings_in_a_png),
    ]


def _model(folder: Path) -> bytes:
    """A nearly empty checkpoint with names of SD 1."""
    names = ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.a.weight")
    save_file({name: torch.ones(2, 3) for name in names}, folder / "a.safetensors", {"a": "b"})
    return (folder / "a.safetensors").read_bytes()


def _starter_config(folder: Path) -> dict[str, Any]:
    """The starter's configurations by file name; `folder` gets links to its weights."""
    source = models.base_path("starter")
    for path in source.rglob("*.safetensors"):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    (folder / "scheduler").mkdir()
    names = ("model_index.json", "unet/config.json", "vae/config.json")
    names += ("scheduler/scheduler_config.json",)
    return {name: json.loads((source / name).read_text(encoding="utf-8")) for name in names}


def _adapter(denoiser: models.Denoiser, folder: Path) -> tuple[bytes, dict[str, Any]]:
    folder.mkdir()
    denoiser.adapters.new(TrainingSettings(rank=2))
    denoiser.adapters.save(folder)
    denoiser.adapters.remove()
    description = (folder / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8")
    return (folder / ADAPTER_FILE).read_bytes(), json.loads(description)


def _lora(denoiser: models.Denoiser, folder: Path) -> bytes:
    denoiser.adapters.new(TrainingSettings(rank=2))
    state = denoiser.adapters.state()
    denoiser.adapters.remove()
    info = ExportInfo("sd1", "the starter", 8, 0.0)
    report = export_lora(folder / "lora", "good", state, 2, 2.0, info, ("kohya",))
    [path] = (path for path in report.files if path.suffix == ".safetensors")
    return path.read_bytes()


def _latents(home: Home) -> bytes:
    return next(home.path.glob("sessions/*/trajectories/*")).read_bytes()


def _png() -> bytes:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("parameters", "a cat\nSteps: 20, Sampler: DDIM, CFG scale: 3, Seed: 7")
    buffer = io.BytesIO()
    Pictures.linear_gradient("L").resize((8, 8)).convert("RGB").save(buffer, "PNG", pnginfo=notes)
    return buffer.getvalue()
