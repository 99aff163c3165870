"""Textual inversions: an artist's own words, each a file of vectors for the text encoders.

As in A1111, the name of a file in a folder `embeddings` is a word, anywhere in a prompt and in
upper or lower case. In the prompt that the tokenizers read, every vector is a character of its own
from Unicode's private use area.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AddedToken

from studio import weights
from studio.weights import ModelError

FOLDER = "embeddings"
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
MOST_VECTORS = 75  # the tokens of a prompt
FIRST_LETTER = 0xF0000  # the first private use character of plane 15
XL_KEYS = ("clip_l", "clip_g")  # of the first and the second text encoder
LETTERS = r"[^\W\d_]"


def folders(model: Path) -> list[Path]:
    """The folders of a model's inversions: beside it, in the folder `models` that holds it
    (ComfyUI), or above that one (A1111 and Forge)."""
    candidates = [model.parent]
    parents = list(model.parents)
    for index, folder in enumerate(parents[:-1]):
        if folder.name.lower() == "models":
            candidates += [folder, parents[index + 1]]
            break
    return [folder / FOLDER for folder in dict.fromkeys(candidates) if (folder / FOLDER).is_dir()]


@dataclass(frozen=True)
class Inversion:
    """A textual inversion. letters: replace its name in a marked prompt, one per vector."""

    name: str
    letters: str
    short_hash: str  # as A1111 writes it into its pictures


class Inversions:
    """The textual inversions of a model."""

    def __init__(
        self, model: Path, tokenizers: Sequence[Any], encoders: Sequence[torch.nn.Module]
    ) -> None:
        self._model = model
        self._tokenizers, self._encoders = tokenizers, encoders
        self._known: dict[tuple[Path, int, int], Inversion] = {}  # by file, size and time
        self._names: dict[str, str] = {}  # by letters
        self._next_letter = FIRST_LETTER

    def mark(self, prompts: Sequence[str]) -> list[tuple[str, tuple[Inversion, ...]]]:
        """Each prompt with letters in place of the names, and its inversions.

        Raises ModelError with a sentence if the file of an inversion cannot be used.
        """
        files = self._files()
        if not files:
            return [(prompt, ()) for prompt in prompts]
        longest_first = sorted(files, key=len, reverse=True)
        words = re.compile("|".join(map(word_pattern, longest_first)), re.IGNORECASE)
        marked = []
        for prompt in prompts:
            used: dict[str, Inversion] = {}

            def letters(match: re.Match[str], used: dict[str, Inversion] = used) -> str:
                inversion = self._read(files[match[0].lower()])
                used[inversion.letters] = inversion
                return inversion.letters

            marked.append((words.sub(letters, prompt), tuple(used.values())))
        return marked

    def unmark(self, text: str) -> str:
        """A part of a marked prompt with names in place of the letters."""
        for letters, name in self._names.items():
            text = re.sub(f"[{letters}]+", name, text)
        return text

    def _files(self) -> dict[str, Path]:
        """Files by name in lower case; of several with one name, the first safetensors file."""
        files: dict[str, Path] = {}
        for folder in folders(self._model):
            for path in sorted(folder.rglob("*")):
                ending, name = path.suffix.lower(), path.stem.lower()
                if name and (ending == weights.SUFFIX or ending in PICKLES):
                    before = files.get(name)
                    if before is None or (ending == weights.SUFFIX and _is_pickle(before)):
                        files[name] = path
        return files

    def _read(self, path: Path) -> Inversion:
        if _is_pickle(path):
            raise ModelError(
                f"The prompt names the textual inversion “{path.stem}”, whose file {path.name} can "
                "hide a program and is not opened. Replace it by a .safetensors file, or remove "
                "the word from the prompt."
            )
        weights.require_plain_file(path)
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._known:
            self._known[key] = self._add(path)
        return self._known[key]

    def _add(self, path: Path) -> Inversion:
        """Add the vectors of a file to the text encoders, as new tokens."""
        tables = [encoder.get_input_embeddings() for encoder in self._encoders]
        vectors = read_vectors(path, [table.weight.shape[1] for table in tables])
        count = len(vectors[0])
        letters = "".join(map(chr, range(self._next_letter, self._next_letter + count)))
        for tokenizer, encoder, own in zip(self._tokenizers, self._encoders, vectors, strict=True):
            tokenizer.add_tokens([AddedToken(letter, normalized=False) for letter in letters])
            ids = tokenizer.convert_tokens_to_ids(list(letters))
            _make_room(encoder, max(ids) + 1, tokenizer.eos_token_id)
            table = encoder.get_input_embeddings().weight
            table.data[ids] = own.to(table.device, table.dtype)
        self._next_letter += count
        self._names[letters] = path.stem
        return Inversion(path.stem, letters, weights.body_sha256(path)[:12])


def word_pattern(name: str) -> str:
    """A pattern for a name that is not part of a longer word or number."""
    return _edge(name[0], "<!") + re.escape(name) + _edge(name[-1], "!")


def _edge(letter: str, lookaround: str) -> str:
    if letter.isdigit():
        return rf"(?{lookaround}\d)"
    return f"(?{lookaround}{LETTERS})" if re.match(LETTERS, letter) else ""


def _is_pickle(path: Path) -> bool:
    return path.suffix.lower() in PICKLES


def _make_room(encoder: torch.nn.Module, tokens: int, end: int) -> None:
    if encoder.get_input_embeddings().weight.shape[0] < tokens:
        encoder.resize_token_embeddings(tokens, mean_resizing=False)
    # For a wrong end token in the configuration (2, in many SDXL models), transformers takes the
    # highest token of the text instead. That fails once there are tokens beyond the end token.
    inner = getattr(encoder, "text_model", encoder)
    if inner.eos_token_id == 2:
        inner.eos_token_id = end


def read_vectors(path: Path, widths: list[int]) -> list[Tensor]:
    """(vectors, width) for each text encoder, in float32. Raises ModelError for an unusable file.

    Reads the formats of A1111 (`emb_params`), diffusers (one tensor of any name) and SDXL.
    """
    header = weights.read_header(path)
    names = sorted(header.tensors)
    is_xl_file = set(names) == set(XL_KEYS)
    if is_xl_file != (len(widths) == 2) and (is_xl_file or len(names) == 1):
        kind = "Stable Diffusion XL" if is_xl_file else "Stable Diffusion 1 or 2"
        raise ModelError(f"{path.name} is a textual inversion for {kind}, not for this model.")
    if not is_xl_file and len(names) != 1:
        raise ModelError(f"{path.name} is not a textual inversion of a supported kind.")
    counts = []
    for name, width in zip(XL_KEYS if is_xl_file else names, widths, strict=True):
        entry = header.tensors[name]
        if entry.dtype not in weights.FLOATS or len(entry.shape) not in (1, 2):
            raise ModelError(f"{path.name} is not a textual inversion of a supported kind.")
        count = entry.shape[0] if len(entry.shape) == 2 else 1
        if entry.shape[-1] != width:
            raise ModelError(
                f"{path.name} is a textual inversion for another kind of model: its vectors have "
                f"{entry.shape[-1]} numbers each, and this model reads {width}."
            )
        if not 1 <= count <= MOST_VECTORS:
            raise ModelError(
                f"{path.name} holds {count} vectors; a prompt has room for {MOST_VECTORS}."
            )
        counts.append((name, count))
    if len({count for _, count in counts}) != 1:
        raise ModelError(
            f"{path.name} is damaged: its two parts hold different numbers of vectors."
        )
    tensors = load_file(path)
    vectors = [tensors[name].float().reshape(count, -1) for name, count in counts]
    if not all(bool(tensor.isfinite().all()) for tensor in vectors):
        raise ModelError(f"{path.name} holds values that are not numbers: download it again.")
    return vectors
