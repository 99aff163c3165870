"""The metadata in and beside a LoRA file, with which other tools sort, show and check it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import safetensors.torch
from PIL import Image
from torch import Tensor

from studio import __version__
from studio.families import FAMILIES
from studio.lora.format import LowRank

THUMBNAIL_PX = 256
LEGACY_WINDOW = (0x100000, 0x110000)  # bytes of a file that its legacy hash is over


@dataclass(frozen=True)
class StartedFrom:
    """Another LoRA, which was fused into the base model before training."""

    name: str
    sha256: str
    strength: float

    def __str__(self) -> str:
        return f"{self.name} at strength {self.strength:g}"


@dataclass(frozen=True)
class ExportInfo:
    """Facts that go into the metadata of a LoRA file.

    family: a key of `FAMILIES`; the starter model is in "sd1".
    base_model: the name of its base model, for the artist.
    trigger: words that belong in the prompt, if any. strength: the artist's recommendation.
    exam: a sentence with the results of blind exams. exams: the same in numbers, one per strength.
    start: another LoRA that must be used together with this one.
    """

    family: str
    base_model: str
    picks: int
    trained_at_s: float
    base_hash: str = ""
    prediction_type: str = "epsilon"
    width_px: int = 512
    height_px: int = 512
    clip_skip: int = 1
    trigger: str = ""
    strength: float = 1.0
    licence: str = ""
    author: str = ""
    notes: str = ""
    exam: str = ""
    exams: tuple[dict[str, float], ...] = ()
    start: StartedFrom | None = None


def training_fields(adapter: Mapping[str, LowRank], stem: str, info: ExportInfo) -> dict[str, str]:
    """The `ss_` fields, with which A1111, Forge and others sort and show a LoRA."""
    names = FAMILIES[info.family].lora
    part = min(adapter.values(), key=lambda part: part.rank)  # three layers in one have more
    return {
        "ss_base_model_version": names.base_version,
        "ss_v2": str(names.v2),
        "ss_output_name": stem,  # A1111's alias, which must be the file's name
        "ss_sd_model_name": info.base_model,
        "ss_clip_skip": str(info.clip_skip) if info.clip_skip > 1 else "None",
        "ss_network_module": names.module,
        "ss_network_dim": str(part.rank),
        "ss_network_alpha": str(part.alpha),
        "ss_network_args": "{}",
        "ss_training_started_at": str(info.trained_at_s),
        "ss_training_comment": _description(info),
    }


def storable(text: str) -> str:
    """Replace lone surrogates, which a command line can contain and a file cannot."""
    return text.encode(errors="replace").decode()


def storable_info(info: ExportInfo) -> ExportInfo:
    """The same facts with `storable` texts."""
    texts = {k: v for k, v in dataclasses.asdict(info).items() if isinstance(v, str)}
    texts = {key: storable(text) for key, text in texts.items()}
    start = info.start
    if start is not None:
        start = dataclasses.replace(start, name=storable(start.name))
    return dataclasses.replace(info, start=start, **texts)


def modelspec(
    title: str, body_sha256: str, info: ExportInfo, thumbnail: Image.Image | None
) -> dict[str, str]:
    """The fields of Stability AI's specification, and the studio's own."""
    made_at = datetime.fromtimestamp(info.trained_at_s, UTC)
    fields = {
        "sai_model_spec": "1.0.1",
        "architecture": FAMILIES[info.family].lora.architecture,
        "implementation": "diffusers",
        "title": title,
        "description": _description(info),
        "author": info.author,
        "date": made_at.isoformat(timespec="seconds"),
        "hash_sha256": f"0x{body_sha256}",
        "trigger_phrase": info.trigger,
        "usage_hint": " ".join([f"Recommended strength: {info.strength:g}.", *_together(info)]),
        "license": info.licence,
        "prediction_type": "v" if info.prediction_type.startswith("v") else info.prediction_type,
        "resolution": f"{info.width_px}x{info.height_px}",
        "thumbnail": thumbnail_url(thumbnail) if thumbnail is not None else "",
    }
    own = {
        "d3po_studio.picks": str(info.picks),
        "d3po_studio.strength": f"{info.strength:g}",
        "d3po_studio.base_model": info.base_model,
        "d3po_studio.base_hash": info.base_hash,
    }
    if info.start:
        own |= {
            "d3po_studio.start_lora": info.start.name,
            "d3po_studio.start_lora_sha256": info.start.sha256,
            "d3po_studio.start_lora_strength": f"{info.start.strength:g}",
        }
    if info.exams:
        own |= {"d3po_studio.exam": info.exam, "d3po_studio.exams": json.dumps(info.exams)}
    return {f"modelspec.{key}": value for key, value in fields.items() if value} | own


def _description(info: ExportInfo) -> str:
    picks = "1 pick" if info.picks == 1 else f"{info.picks} picks"
    sentences = [f"Tuned with D3PO Studio {__version__} from {picks} by its maker."]
    if info.base_model:
        sentences.append(f"Made for {info.base_model}.")
    sentences += _together(info)
    if info.exam:
        sentences.append(info.exam)
    if info.notes:
        sentences.append(info.notes)
    return " ".join(sentences)


def _together(info: ExportInfo) -> list[str]:
    """The adapter holds only the difference that was learned on top of the other LoRA."""
    if info.start is None:
        return []
    return [f"It was trained on top of the LoRA {info.start}: use both together."]


def sidecar(title: str, info: ExportInfo) -> bytes:
    """The .json beside the file, the only place where A1111 looks for trigger and strength."""
    fields: dict[str, object] = {
        "description": f"{title}. {_description(info)}",
        "sd version": FAMILIES[info.family].lora.sd_version,
        "activation text": info.trigger,
        "preferred weight": info.strength,
        "notes": f"Licence: {info.licence}." if info.licence else "",
    }
    if info.exams:
        fields["d3po_studio"] = {"exam": info.exam, "exams": info.exams}
    return json.dumps(fields, indent=2, ensure_ascii=False).encode()


def encoded(picture: Image.Image, form: str, **options: int) -> bytes:
    """The content of a picture file."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, form, **options)
    return buffer.getvalue()


def thumbnail_url(picture: Image.Image) -> str:
    """A small copy of a picture, in the format of `modelspec.thumbnail`."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return f"data:image/jpeg;base64,{base64.b64encode(encoded(small, 'JPEG', quality=85)).decode()}"


# --- hashes ------------------------------------------------------------------------------------


class Serialised:
    """Tensors as a safetensors file holds them, behind whatever metadata.

    Most of the time that a file of thousands of small layers takes is spent on this: once a file.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        content = safetensors.torch.save(dict(tensors))
        begin = 8 + int.from_bytes(content[:8], "little")
        self._tensors = json.loads(content[8:begin])
        self._body = memoryview(content)[begin:]

    @cached_property
    def sha256(self) -> str:
        """The `weights.body_sha256` of the file."""
        return hashlib.sha256(self._body).hexdigest()

    def content(self, metadata: Mapping[str, str]) -> bytes:
        """The whole file."""
        return file_header(metadata, self._tensors) + self._body

    def sd_scripts_hashes(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """By which A1111 knows a LoRA.

        The old hash is over a window of the file as sd-scripts would have saved it.
        """
        training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
        begin = file_header(training, self._tensors)
        first, last = (max(0, place - len(begin)) for place in LEGACY_WINDOW)
        window = begin[slice(*LEGACY_WINDOW)] + self._body[first:last]
        return {
            "sshs_model_hash": self.sha256,
            "sshs_legacy_hash": hashlib.sha256(window).hexdigest()[:8],
        }


def file_header(metadata: Mapping[str, str], tensors: Mapping[str, Any]) -> bytes:
    """The start of a safetensors file, as the library itself writes it; tensors: its entries."""
    document = {"__metadata__": metadata, **tensors}
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers lie where a processor likes them
    return len(text).to_bytes(8, "little") + text
