"""Files and texts of somebody's making, by the thousand: a value or a sentence, and nothing else.

What hypothesis makes is given to the code that reads it, in a process of its own. `torn`: the
reader died, raised what nobody foresaw, or took for whole what is not. `hung`: one took longer than
ten seconds. Memory is bounded by the system: what asks for more than its share fails as torn.
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
LIMIT_S = 10.0  # for one
MEMORY_BYTES = 2_000_000_000  # that a reader may take beyond what the process has already
ROW_LIMIT_S = 3600.0


@dataclass
class Found:
    """What came of the examples of one kind, as the process that tried them tells it."""

    tried: int = 0
    taken: int = 0
    torn: int = 0
    hung: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """`reader` gives whether it took an example; what it raises beside `sentences` is a fault."""

    what: str
    examples: Callable[[], Any]  # a hypothesis strategy
    reader: Callable[[Any], bool]
    share: float = 1.0  # of the number of examples, where each takes long


def rows(
    homes: dict[str, Home],
    place: Path,
    quick: bool,
    with_strace: bool,
    wanted: Callable[[str], bool],
) -> Iterator[Row]:
    try:
        import hypothesis  # noqa: F401
    except ImportError:
        print("Hostile files are left out: they are made by hypothesis, of the test tools.")
        return
    asked = [name for name in NAMES if wanted(f"hostile: {name}")]
    if not asked:
        return
    kinds = {kind.what: kind for kind in kinds_of(homes["new"], place)}
    for name in asked:
        number = int((QUICK_EXAMPLES if quick else EXAMPLES) * kinds[name].share)
        found = in_a_process(lambda name=name, number=number: tries(kinds[name], number))
        row = Row(f"hostile: {name}", found.tried, 0, found.torn, found.hung, found.problems)
        if not found.taken:
            row.problems.append("none of them was taken: they prove nothing")
        yield row


def in_a_process(call: Callable[[], Found]) -> Found:
    """What `call` gives, from a process that it may bring down."""
    import resource  # there is none on Windows, where this file is imported too

    with tempfile.TemporaryFile() as answer:
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                signal.alarm(int(ROW_LIMIT_S))
                torch.set_num_threads(1)  # its threads did not survive the fork
                nothing = os.open(os.devnull, os.O_RDWR)
                os.dup2(nothing, 2)  # libraries complain there
                faulthandler.disable()
                used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf(
                    "SC_PAGE_SIZE"
                )
                most = used + MEMORY_BYTES
                resource.setrlimit(resource.RLIMIT_AS, (most, most))
                found = call()
                answer.write(pickle.dumps(found))
                answer.flush()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        answer.seek(0)
        text = answer.read()
        if text:
            return pickle.loads(text)
        return Found(1, 0, 1, 0, [f"the process died: status {status}"])


def tries(kind: Kind, number: int) -> Found:
    """`number` examples, always the same ones."""
    from hypothesis import HealthCheck, Phase, given, settings

    found = Found()

    @settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.examples())
    def one(example: Any) -> None:
        if found.tried >= number:
            return
        found.tried += 1
        started_s = time.monotonic()
        try:
            found.taken += bool(kind.reader(example))
        except BaseException:
            found.torn += 1
            found.problems.append(f"{example!r:.300}: {traceback.format_exc()[-1200:]}")
        if time.monotonic() - started_s > LIMIT_S:
            found.hung += 1
            found.problems.append(f"{example!r:.300}: {time.monotonic() - started_s:.0f} s")

    while found.tried < number:  # hypothesis leaves out what it has tried before
        before = found.tried
        one()
        if found.tried == before:
            break
    return found


# --- who reads it --------------------------------------------------------------------------------

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


def kinds_of(home: Home, place: Path) -> list[Kind]:
    """Everything that reads what others made, and examples that are nearly right."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-", dir=place))
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
        with safe_open(path, "pt") as file:  # what is taken, the library reads the same
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
            assert not getattr(denoiser.unet, "peft_config", {})

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
            assert not getattr(denoiser.unet, "peft_config", {})

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
    store.close()  # no connection may be carried over into another process

    def archive(content: bytes) -> bool:
        before = {one.id for one in store.sessions()}
        try:
            made = import_session(store, write("session.zip", content))
        except StoreError:
            assert {one.id for one in store.sessions()} == before
            assert not any((store.home / "imports").glob("*"))
            return False
        things(store, made.id)
        report = examine_files(store)
        assert report.damaged + report.orphaned == []
        store.delete_session(made.id)
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

    from studio.bench.faults import examples

    (folder / "wildcards").mkdir()
    (folder / "wildcards" / "animal.txt").write_text("cat\n__animal__ and {dog|__animal__}\n")
    picture_bytes, config = _png(), _starter_config(folder / "model")
    weights, description = _adapter(denoiser, folder / "good")
    descriptions = examples.changed(
        description, examples.json_values() | st.sampled_from([0, 3, 10**7, 2**40])
    )
    return [
        Kind("headers of models", examples.headers, model),
        Kind("models, harmed", lambda: examples.harmed(_model(folder)), model),
        Kind(
            "folders of models",
            lambda: examples.changed(config, examples.json_values(), 1),
            model_folder,
        ),
        Kind("LoRA files", lambda: examples.harmed(_lora(denoiser, folder)), lora),
        Kind(
            "adapters from an archive",
            lambda: (
                st.tuples(examples.harmed(weights), st.just(description))
                | st.tuples(st.just(weights), descriptions)
            ),
            adapter,
        ),
        Kind("latents from an archive", lambda: examples.harmed(_latents(home)), latents),
        Kind("settings in a PNG", lambda: examples.pngs(picture_bytes), settings_in_a_png),
        Kind("pictures from an archive", lambda: examples.pngs(picture_bytes), picture),
        Kind(
            "archives, harmed",
            lambda: examples.harmed((place / ARCHIVE).read_bytes()),
            archive,
            0.5,
        ),
        Kind("archives with other rows", lambda: examples.archives(place / ARCHIVE), archive, 0.5),
        Kind("prompts", examples.templates, prompt),
        Kind("prompts that expand", examples.expansions, prompt),
        Kind(
            "archives with wrong values in every column",
            lambda: examples.archives_of_wrong_values(place / ARCHIVE),
            archive,
            0.5,
        ),
        Kind("settings of other programs", examples.pictures_of_programs, settings_in_a_png),
    ]


def _model(folder: Path) -> bytes:
    """A checkpoint with the names of SD 1, and hardly anything in it."""
    names = ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.a.weight")
    save_file({name: torch.ones(2, 3) for name in names}, folder / "a.safetensors", {"a": "b"})
    return (folder / "a.safetensors").read_bytes()


def _starter_config(folder: Path) -> dict[str, Any]:
    """The descriptions of the starter by their names; its weights lie in `folder`, as links."""
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
