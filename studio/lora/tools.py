"""Operations on LoRA files: blend and resize.

Plain LoRAs of any trainer can be read. A result has the format of its source, with the same rank
and alpha in all layers, which every tool reads alike. It is read back and compared before it gets
its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from studio.files import write_atomically
from studio.lora import format as lora_format
from studio.lora.format import (
    DIFFUSERS_HEADER,
    Format,
    LoraError,
    LowRank,
    Precision,
    is_same,
    peft_header,
)
from studio.lora.metadata import Serialised
from studio.lora.names import diffusers_name, is_original
from studio.weights import ModelError

MOST_RANK = 1024


@dataclass(frozen=True)
class Lora:
    """A LoRA to write: its layers by their names in the file, and its metadata."""

    form: Format
    parts: Mapping[str, LowRank]
    metadata: Mapping[str, str]

    @property
    def rank(self) -> int:
        """The largest rank of its layers."""
        return max(part.rank for part in self.parts.values())


def read(path: Path) -> Lora:
    """Read a LoRA file. Raises ModelError unless it is a plain LoRA, LoraError if it holds parts
    that `write` would lose."""
    file = lora_format.read(path)
    if words := lora_format.bundled_words(file.strays):
        raise LoraError(
            f"{path.name} bundles the embedding “{words[0][:60]}”, whose word would be lost: such "
            "files cannot be written anew."
        )
    if file.strays:
        raise LoraError(
            f"{path.name} is not a plain LoRA: it holds {len(file.strays)} parts that would be "
            f"lost, such as {file.strays[0]}."
        )
    names = {name: diffusers_name(name) for name in file.parts}
    form: Format = "diffusers"
    if None in names.values():
        form = "original" if all(map(is_original, file.parts)) else "kohya"
    parts = {
        (names[name] if form == "diffusers" else name) or name: LowRank(
            part.down.float(), part.up.float(), part.alpha
        )
        for name, part in file.parts.items()
    }
    return Lora(form, parts, file.metadata)


# --- blend and resize ----------------------------------------------------------------------------


def blend(loras: Sequence[Lora], strengths: Sequence[float]) -> Lora:
    """One LoRA with exactly the summed effect of all, each at its strength.

    Its rank is at most the sum of the ranks; it has the metadata of the first. Raises LoraError.
    """
    first = loras[0]
    if any(lora.form != first.form for lora in loras):
        raise LoraError("Blend files of one format: both for diffusers, or both for other tools.")
    _require_one_base(loras)
    terms = [
        (name, part, strength)
        for lora, strength in zip(loras, strengths, strict=True)
        for name, part in lora.parts.items()
    ]
    return Lora(first.form, summed(terms), first.metadata)


def summed(terms: Iterable[tuple[str, LowRank, float]]) -> dict[str, LowRank]:
    """The exact sum of changes of layers, each at its strength, in layers of one common rank: the
    largest sum of the ranks in a layer. Raises LoraError if two changes of a layer differ in size.
    """
    by_layer: dict[str, list[LowRank]] = {}
    for name, part, strength in terms:
        scaled = LowRank(part.down, part.up * (strength * part.scale), math.nan)
        by_layer.setdefault(name, []).append(scaled)
    rank = max(sum(part.rank for part in parts) for parts in by_layer.values())
    total = {}
    for name, parts in sorted(by_layer.items()):
        if len({(part.down.shape[1:], part.up.shape[:1]) for part in parts}) != 1:
            raise LoraError(f"The LoRAs were made for different models: {name} does not fit.")
        down = torch.cat([part.down for part in parts])
        up = torch.cat([part.up for part in parts], 1)
        if not bool(up.isfinite().all()):
            raise LoraError(f"At these strengths {name} is too large for the numbers of a LoRA.")
        total[name] = _padded(LowRank(down, up, float(rank)), rank)
    return total


def _require_one_base(loras: Sequence[Lora]) -> None:
    for key in ("ss_base_model_version", "modelspec.architecture"):
        values = {lora.metadata[key] for lora in loras if lora.metadata.get(key)}
        if len(values) > 1:
            raise LoraError(
                f"The LoRAs were made for different kinds of model: {', '.join(sorted(values))}."
            )


def resize(lora: Lora, rank: int) -> tuple[Lora, float]:
    """The nearest LoRA of this rank, and the share (0 to 1) of the change's norm that remains in
    the layer that loses most. Raises LoraError."""
    if not 1 <= rank <= MOST_RANK:
        raise LoraError(f"A rank lies between 1 and {MOST_RANK}.")
    with _one_thread():
        resized = {name: _resized(part, rank) for name, part in lora.parts.items()}
    parts = {name: part for name, (part, _) in resized.items()}
    return Lora(lora.form, parts, lora.metadata), min(share for _, share in resized.values())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Inside, torch computes on one thread. With several, threads wait for one another at each of
    thousands of small matrices: on a busy computer a hundred times longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _resized(part: LowRank, rank: int) -> tuple[LowRank, float]:
    """A truncated SVD of up @ down, computed from the small triangles of two QR decompositions."""
    up_basis, up_rest = torch.linalg.qr(part.up.flatten(1).double())
    down_basis, down_rest = torch.linalg.qr(part.down.flatten(1).double().T)
    left, values, right = torch.linalg.svd(part.scale * (up_rest @ down_rest.T))
    count = min(rank, len(values))
    root = values[:count].sqrt()
    up = (up_basis @ left[:, :count] * root).float()
    down = (root[:, None] * right[:count] @ down_basis.T).float()
    whole = float(values.norm())
    share = float(values[:count].norm()) / whole if whole else 1.0
    truncated = LowRank(
        down.reshape(count, *part.down.shape[1:]),
        up.reshape(up.shape[0], count, *part.up.shape[2:]),
        float(rank),
    )
    return _padded(truncated, rank), share


def _padded(part: LowRank, rank: int) -> LowRank:
    """Pad a layer with zeros to the common rank of its file."""
    missing = rank - part.rank
    down = torch.cat([part.down, part.down.new_zeros(missing, *part.down.shape[1:])])
    up_zeros = part.up.new_zeros(part.up.shape[0], missing, *part.up.shape[2:])
    return LowRank(down, torch.cat([part.up, up_zeros], 1), part.alpha)


def write(path: Path, lora: Lora, precision: Precision = "float32") -> None:
    """Write a new file; it is read back and compared before it gets its name.

    The metadata stays the same, except for name, rank, alpha and hashes.
    """
    require_new(path)
    tensors = Serialised(lora_format.tensors(lora.form, lora.parts, precision))
    metadata = dict(lora.metadata)
    if "modelspec.title" in metadata:
        metadata |= {"modelspec.title": path.stem, "modelspec.hash_sha256": f"0x{tensors.sha256}"}
    if lora.form != "diffusers":
        metadata |= {
            "ss_output_name": path.stem,
            "ss_network_dim": str(lora.rank),
            "ss_network_alpha": str(float(lora.rank)),
        }
        metadata |= tensors.sd_scripts_hashes(metadata)
    else:
        metadata[DIFFUSERS_HEADER] = peft_header(lora.parts)

    def verify(draft: Path) -> None:
        written = read(draft)
        same = written.parts.keys() == lora.parts.keys() and all(
            is_same(written.parts[name], part, precision) for name, part in lora.parts.items()
        )
        if not same:
            raise LoraError(f"{path.name} was not written: read back, it was not the same.")

    publish(path, lambda draft: draft.write_bytes(tensors.content(metadata)), verify)


# --- the disk ------------------------------------------------------------------------------------


def require_new(path: Path) -> None:
    """Raise LoraError if something exists at a path."""
    if path.exists():
        raise LoraError(f"{path} exists already: choose another name.")


def publish(
    path: Path, write_draft: Callable[[Path], object], verify: Callable[[Path], None] | None = None
) -> None:
    """Write a file or folder, verify the draft, and give it its name."""

    def write_checked(draft: Path) -> None:
        write_draft(draft)
        if verify is not None:
            verify(draft)

    try:
        write_atomically(path, write_checked)
    except (OSError, SafetensorError) as error:
        raise LoraError(f"{path} could not be written: {error}.") from error
    except ModelError as error:
        raise LoraError(str(error)) from error
