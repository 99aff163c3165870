"""The model that is loaded, and the pictures that are drawn with it.

One base model is held at a time. An adapter is on it only while something is drawn with it, or
while a round trains its own.
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

from studio import models
from studio.engine import memory, sampling, trajectory
from studio.engine.trajectory import Trajectory
from studio.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE, sha256
from studio.lora.format import LoraFile
from studio.lora.fuse import hash_with
from studio.prompting import alternatives
from studio.settings import StartLora
from studio.store import Adapter, Image, Session, Store, StoreDamaged, write_atomically
from studio.store.files import require_whole
from studio.store.rows import Purpose
from studio.worker.errors import WorkerError
from studio.worker.model_library import known
from studio.worker.status import StatusReporter
from studio.worker.wanted import now_and_then

Base = tuple[str, StartLora | None]  # `SessionSettings.base`


class Renderer:
    """Draws for one store, and puts on its disk what was drawn."""

    def __init__(self, store: Store, device: str, status: StatusReporter) -> None:
        self.store = store
        self.device = device
        self.preset = memory.PRESETS[0]  # what the settings are that the memory allows
        self.base: Base = ("", None)  # what is loaded
        self.denoiser: models.Denoiser | None = None
        self.before_unloading: Callable[[], None] = lambda: None
        # Raises Cancelled when what is being drawn is not wanted any more: asked between two steps.
        self.require_wanted: Callable[[], None] = sampling.always
        self._start_stamp: tuple[int, int] | None = None
        self._status = status

    # --- the model -------------------------------------------------------------------------------

    def load(self, base: Base) -> models.Denoiser:
        """The base model with the LoRA that the session starts from, loaded if it is not; what was
        is let go of. A LoRA file that has changed since is another model."""
        base_model, start = base
        stamp = _stamp(start)
        if self.denoiser is None or self.base != base or stamp not in (None, self._start_stamp):
            self.before_unloading()
            if self.denoiser is not None:
                self.denoiser = None
                gc.collect()  # a model is a web of references; its memory is needed now
                self.give_memory_back()
            name = "the starter model" if base_model == "starter" else Path(base_model).name
            self._status.report("starting", f"Loading {name}.")
            self.denoiser = models.load(base_model, self.device, start=start)
            self.base, self._start_stamp = base, stamp
            self.store.remember_model(known(base_model, self.denoiser.info))
            self.use_preset(memory.preset_for(memory.free_gb(self.denoiser.device)))
        return self.denoiser

    def model_of(self, session: Session) -> models.Denoiser:
        """The base model of a session, if it is the one that the session was begun with."""
        denoiser = self.load(session.settings.base)
        expected, found = session.settings.model_hash, denoiser.info.weights_hash
        if not expected:
            size_bytes, _ = models.stamp(denoiser.info.path)
            base_model = session.settings.base_model
            self.store.remember_model_of(session.id, base_model, found, size_bytes)
        elif found != expected:
            raise WorkerError(
                f"{denoiser.info.name} is not the model any more that this session was begun with: "
                "its file has changed. Open Model on the Prompt tab to say how to go on."
            )
        return denoiser

    def use_preset(self, preset: memory.Preset) -> None:
        """Fit into the memory there is, and show by what settings."""
        assert self.denoiser is not None
        self.preset = preset
        self.denoiser.save_memory(preset.model_cpu_offload, preset.vae_tiling)
        self._status.show_device(f"{self.device}, settings for {preset.gb} GB")

    def give_memory_back(self) -> None:
        """What larger work has used and does not need any more."""
        memory.give_back(torch.device(self.device))

    def require_base(self, session: Session, adapter: Adapter) -> models.Denoiser:
        """The session's model, if it is the one that the adapter was made with."""
        denoiser = self.model_of(session)
        if adapter.base_hash != denoiser.base_hash:
            raise WorkerError(
                "This adapter was made with another base model, or started from another LoRA, than "
                "the session uses now. Choose that again to use it."
            )
        return denoiser

    @contextlib.contextmanager
    def while_wanted(self, require_wanted: Callable[[], None]) -> Iterator[None]:
        """Inside, what is drawn is given up as soon as `require_wanted` raises Cancelled."""
        before, self.require_wanted = self.require_wanted, now_and_then(require_wanted)
        try:
            yield
        finally:
            self.require_wanted = before

    @contextlib.contextmanager
    def using(self, adapter_id: str | None, strength: float = 1.0) -> Iterator[models.Denoiser]:
        """Inside, an adapter of the store is applied, or none, whatever is being trained."""
        assert self.denoiser is not None
        folder = None if adapter_id is None else self.whole_adapter(adapter_id)
        with self.denoiser.adapters.using(folder, strength):
            yield self.denoiser

    def read_adapter(self, adapter_id: str | None) -> models.ReadAdapter | None:
        """An adapter of the store, to be told to other processes."""
        assert self.denoiser is not None
        if adapter_id is None:
            return None
        return self.denoiser.adapters.read(self.whole_adapter(adapter_id))

    def whole_adapter(self, adapter_id: str) -> Path:
        """The folder of an adapter, which is what was learned, to the last bit."""
        adapter = self.store.adapter(adapter_id)
        folder = self.store.adapter_path(adapter)
        try:
            require_whole(folder / ADAPTER_FILE, adapter.sha256)
            require_whole(folder / ADAPTER_CONFIG_FILE, adapter.config_sha256)
        except (OSError, StoreDamaged) as error:
            raise WorkerError(
                f"The files of the LoRA of round {adapter.number} are missing or damaged. Use "
                "another round on the Train tab, or train again; `python launch.py doctor` looks "
                "at all files."
            ) from error
        return folder

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
        """What a picture is, before it is drawn."""
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

    def image_with(
        self, session: Session, prompt: str, seed: int, lora: LoraFile, strength: float
    ) -> Image:
        """What the base model draws with somebody's LoRA in it: another model, by its hash."""
        base = self.image(session, "compare", prompt, seed, None)
        return replace(base, base_hash=hash_with(base.base_hash, lora.sha256, strength))

    def preview(self, session: Session, prompt: str, adapter_id: str | None) -> Image:
        """One of the fixed prompts."""
        seed = preview_seed(session.settings.sampling.seed, prompt)
        return self.image(session, "preview", prompt, seed, adapter_id)

    def expand(self, prompt: str, seed: int) -> str:
        """What a prompt that leaves something open says in the picture of this seed."""
        return alternatives.expand(prompt, seed, self.store.wildcards_path)

    def drawn_before(self, wanted: Image) -> Image | None:
        found = self.store.find_image(wanted)
        return found if found is not None and self.store.image_path(found).exists() else None

    def draw(self, wanted: Image, with_lora: tuple[LoraFile, float] | None = None) -> Image:
        """The picture `wanted` describes: drawn, unless there is one already.

        with_lora: what `image_with` was asked for.
        """
        found = self.drawn_before(wanted)
        if found is not None:
            return found
        self._status.report("rendering", f"Drawing: {wanted.prompt}")
        assert self.denoiser is not None
        using = (
            self.denoiser.with_lora(*with_lora)
            if with_lora
            else self.using(wanted.adapter_id, wanted.strength)
        )
        with using:
            picture = self.picture(wanted)
        return self.store.add_image(self.write(wanted, picture))

    def picture(self, wanted: Image) -> PIL.Image.Image:
        """What the network, as it is switched now, draws of `wanted`."""
        assert self.denoiser is not None
        text = self.expand(wanted.prompt, wanted.seed)
        chains = sampling.sample(
            self.denoiser,
            [text],
            [wanted.seed],
            wanted.sampling,
            require_wanted=self.require_wanted,
        )
        self.require_wanted()  # large pictures take long to decode, too
        [picture] = sampling.images(self.denoiser, chains)
        return picture

    def write(
        self, image: Image, picture: PIL.Image.Image, chain: Trajectory | None = None
    ) -> Image:
        """Put the files of an image on the disk; gives the row for the caller to add."""
        master, display = self.store.image_path(image), self.store.display_path(image)
        write_atomically(master, lambda path: picture.save(path, "PNG"))
        if display != master:
            write_atomically(display, lambda path: picture.save(path, "JPEG", quality=92))
        image = replace(image, picture_sha256=sha256(master))
        if chain is None:
            return image
        where = self.store.trajectory_path(image)
        write_atomically(where, lambda path: trajectory.save(path, chain))
        return replace(image, trajectory_sha256=sha256(where))


def _stamp(start: StartLora | None) -> tuple[int, int] | None:
    """By which a file is known not to have changed; None where there is none."""
    if start is None:
        return None
    try:
        status = Path(start.path).expanduser().stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def preview_seed(seed: int, prompt: str) -> int:
    """The seed a fixed prompt is always drawn with, whatever stands beside it."""
    return random.Random(f"{seed} preview {prompt}").getrandbits(31)
