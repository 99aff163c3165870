"""The loaded model, and drawing with it.

At most one base model is loaded at a time. It has an adapter only while a picture is drawn with
one, or while a round trains its own.
"""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import PIL.Image
import torch
from safetensors.torch import load_file

from studio import models
from studio.durations import with_duration
from studio.engine import memory, sampling, trajectory
from studio.engine.trajectory import Trajectory
from studio.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE, sha256
from studio.lora.format import LowRank, from_peft
from studio.paths import expanded
from studio.prompting import alternatives
from studio.settings import StartLora
from studio.store import Adapter, Image, Session, Store, StoreDamaged, write_atomically
from studio.store.files import require_whole
from studio.store.rows import Purpose
from studio.worker.errors import WorkerError
from studio.worker.model_library import load_and_remember
from studio.worker.progress import Pace, picture_kind
from studio.worker.status import StatusReporter
from studio.worker.wanted import now_and_then

Base = tuple[str, StartLora | None]  # `SessionSettings.base`


class Renderer:
    """Draws pictures and writes their files into the store."""

    def __init__(self, store: Store, device: str, status: StatusReporter) -> None:
        self.store = store
        self.device = device
        self.preset = memory.PRESETS[0]  # the one that the free memory allows
        self.base: Base = ("", None)  # of the loaded model
        self.denoiser: models.Denoiser | None = None
        self.before_unloading: Callable[[], None] = lambda: None
        # Raises Cancelled if the work at hand is no longer wanted: see `Denoiser`.
        self.require_wanted: Callable[[], None] = models.always
        self._start_stamp: tuple[int, int] | None = None
        self._status = status
        self.pace = Pace(store)

    # --- the model -------------------------------------------------------------------------------

    def load(self, base: Base) -> models.Denoiser:
        """Load a session's base model and starting LoRA, replacing whatever model is loaded.

        Does nothing if both are loaded and the LoRA file has not changed.
        """
        base_model, start = base
        stamp = _stamp(start)
        if self.denoiser is None or self.base != base or stamp not in (None, self._start_stamp):
            self.before_unloading()
            if self.denoiser is not None:
                self.denoiser = None
                gc.collect()  # a model has reference cycles, and its memory is needed now
                self.give_memory_back()
            name = "the starter model" if base_model == "starter" else Path(base_model).name
            known = self.pace.of(f"loading {name}")
            self._status.report("starting", f"{with_duration(f'Loading {name}', known)}.")
            with self.pace.measured(f"loading {name}"):
                self.denoiser = load_and_remember(self.store, base_model, self.device, start)
            # looked up at each call, because `while_wanted` changes it
            self.denoiser.require_wanted = lambda: self.require_wanted()  # noqa: PLW0108
            self.base, self._start_stamp = base, stamp
            self.use_preset(memory.preset_for(memory.free_gb(self.denoiser.device)))
        return self.denoiser

    def model_of(self, session: Session) -> models.Denoiser:
        """Load the base model of a session.

        Raises WorkerError if the model's file has changed since the session began with it.
        """
        denoiser = self.load(session.settings.base)
        expected, actual = session.settings.model_hash, denoiser.info.weights_hash
        if not expected:
            size_bytes, _ = models.stamp(denoiser.info.path)
            base_model = session.settings.base_model
            self.store.remember_model_of(session.id, base_model, actual, size_bytes)
        elif actual != expected:
            raise WorkerError(
                f"{denoiser.info.name} is no longer the model that this session began with: "
                "its file has changed. The Prompt tab offers ways to go on."
            )
        return denoiser

    def use_preset(self, preset: memory.Preset) -> None:
        """Apply a memory preset, and show it beside the device."""
        assert self.denoiser is not None
        self.preset = preset
        self.denoiser.save_memory(preset.model_cpu_offload, preset.vae_tiling)
        self._status.show_device(f"{self.device}, settings for {preset.gb} GB")

    def give_memory_back(self) -> None:
        """Free cached memory after larger work."""
        memory.give_back(torch.device(self.device))

    def require_base(self, session: Session, adapter: Adapter) -> models.Denoiser:
        """Load the session's model. Raises WorkerError if the adapter was made with another."""
        denoiser = self.model_of(session)
        if adapter.base_hash != denoiser.base_hash:
            raise WorkerError(
                "This adapter was made with another base model, or started from another LoRA, than "
                "the session uses now. Choose that one again to use the adapter."
            )
        return denoiser

    @contextlib.contextmanager
    def while_wanted(self, require_wanted: Callable[[], None]) -> Iterator[None]:
        """Inside, the model stops as soon as `require_wanted` raises Cancelled."""
        before, self.require_wanted = self.require_wanted, now_and_then(require_wanted)
        try:
            yield
        finally:
            self.require_wanted = before

    @contextlib.contextmanager
    def using(self, adapter_id: str | None, strength: float = 1.0) -> Iterator[models.Denoiser]:
        """Inside, the model has an adapter of the store, or none, instead of that in training."""
        assert self.denoiser is not None
        folder = None if adapter_id is None else self.whole_adapter(adapter_id)
        with self.denoiser.adapters.using(folder, strength):
            yield self.denoiser

    def read_adapter(self, adapter_id: str | None) -> models.ReadAdapter | None:
        """An adapter of the store, in the form that is sent to followers."""
        assert self.denoiser is not None
        if adapter_id is None:
            return None
        return self.denoiser.adapters.read(self.whole_adapter(adapter_id))

    def whole_adapter(self, adapter_id: str) -> Path:
        """The folder of an adapter. Raises WorkerError if its files are missing or damaged."""
        adapter = self.store.adapter(adapter_id)
        folder = self.store.adapter_path(adapter)
        try:
            require_whole(folder / ADAPTER_FILE, adapter.sha256)
            require_whole(folder / ADAPTER_CONFIG_FILE, adapter.config_sha256)
        except (OSError, StoreDamaged) as error:
            raise WorkerError(
                f"The files of the LoRA of round {adapter.number} are missing or damaged. Use "
                "another round on the Train tab, or train again; `python launch.py doctor` checks "
                "all files."
            ) from error
        return folder

    def adapter_parts(self, adapter: Adapter) -> dict[str, LowRank]:
        """The changes of an adapter of the store, by diffusers' names of the layers."""
        state = load_file(self.whole_adapter(adapter.id) / ADAPTER_FILE)
        return from_peft(state, adapter.settings.rank, adapter.settings.alpha)

    # --- pictures --------------------------------------------------------------------------------

    def image(
        self,
        session: Session,
        purpose: Purpose,
        prompt: str,
        seed: int,
        adapter_id: str | None,
        strength: float = 1.0,
    ) -> Image:
        """The row of a picture that is not drawn yet."""
        denoiser = self.model_of(session)
        texts = [self.expand(prompt, seed), session.settings.sampling.negative_prompt]
        return Image(
            id=self.store.new_image_id(),
            session_id=session.id,
            purpose=purpose,
            prompt=prompt,
            seed=seed,
            adapter_id=adapter_id,
            strength=strength,
            sampling=session.settings.sampling,
            base_hash=denoiser.base_hash,
            created_at_s=time.time(),
            companions=denoiser.companions(texts),
        )

    def preview(self, session: Session, prompt: str, adapter_id: str | None) -> Image:
        """The row of a fixed prompt's picture."""
        seed = preview_seed(session.settings.sampling.seed, prompt)
        return self.image(session, "preview", prompt, seed, adapter_id)

    def expand(self, prompt: str, seed: int) -> str:
        """The prompt with its alternatives and wildcards chosen by the seed."""
        return alternatives.expand(prompt, seed, self.store.wildcards_path)

    def drawn_before(self, wanted: Image) -> Image | None:
        image = self.store.find_image(wanted)
        return image if image is not None and self.store.image_path(image).exists() else None

    def draw(
        self, wanted: Image, using: contextlib.AbstractContextManager[object] | None = None
    ) -> Image:
        """Draw the picture that `wanted` describes, unless it exists already.

        using: what the model draws with, instead of the adapter of `wanted`.
        """
        image = self.drawn_before(wanted)
        if image is not None:
            return image
        self._status.report("rendering", f"Drawing: {wanted.prompt}")
        with using or self.using(wanted.adapter_id, wanted.strength):
            picture = self.picture(wanted)
        return self.store.add_image(self.write(wanted, picture))

    def picture_s(self, session: Session) -> float | None:
        """Seconds for a picture of a session; None if none was ever measured."""
        assert self.denoiser is not None
        kind = picture_kind(self.denoiser.base_hash, session.settings.sampling)
        return self.pace.of(kind)

    def picture(self, wanted: Image) -> PIL.Image.Image:
        """Draw `wanted` with the model in its present state."""
        return self.drawing(wanted)[0]

    def drawing(self, wanted: Image) -> tuple[PIL.Image.Image, Trajectory]:
        """As `picture`, with the way to it."""
        assert self.denoiser is not None
        text = self.expand(wanted.prompt, wanted.seed)
        with self.pace.measured(picture_kind(self.denoiser.base_hash, wanted.sampling)):
            [chain] = sampling.sample(self.denoiser, [text], [wanted.seed], wanted.sampling)
            [picture] = sampling.images(self.denoiser, [chain])
        return picture, chain

    def write(
        self, image: Image, picture: PIL.Image.Image, chain: Trajectory | None = None
    ) -> Image:
        """Write the files of an image; gives the row with their checksums for the caller to add."""
        master, display = self.store.image_path(image), self.store.display_path(image)
        write_atomically(master, lambda path: picture.save(path, "PNG"))
        if display != master:
            write_atomically(display, lambda path: picture.save(path, "JPEG", quality=92))
        image = replace(image, picture_sha256=sha256(master))
        if chain is None:
            return image
        stored = self.store.trajectory_path(image)
        write_atomically(stored, lambda path: trajectory.save(path, chain))
        return replace(image, trajectory_sha256=sha256(stored))


def _stamp(start: StartLora | None) -> tuple[int, int] | None:
    """Modification time and size of a LoRA file; None if there is none."""
    if start is None:
        return None
    try:
        status = expanded(start.path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def preview_seed(seed: int, prompt: str) -> int:
    """The seed of a fixed prompt, independent of the other prompts."""
    return random.Random(f"{seed} preview {prompt}").getrandbits(31)
