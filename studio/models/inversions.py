"""Textual inversions: words of an artist's own, each a file of vectors for the text encoders.

As in A1111, a file in a folder called `embeddings` is a word by its name, wherever it stands in a
prompt; upper and lower case are one. In the prompt that the tokenizers see, every vector is a
letter of its own, of those that Unicode leaves to private use.
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
MOST_VECTORS = 75  # as many tokens as a prompt has room for
FIRST_LETTER = 0xF0000  # the first of Unicode's private use on plane 15
XL_KEYS = ("clip_l", "clip_g")  # of the first and the second text encoder
LETTERS = r"[^\W\d_]"


def folders(model: Path) -> list[Path]:
    """Where the inversions of a model can lie: beside it, or where A1111 and Forge (above the
    folder `models` that holds it) or ComfyUI (in that folder) keep them."""
    found = [model.parent]
    above = list(model.parents)
    for place, folder in enumerate(above[:-1]):
        if folder.name.lower() == "models":
            found += [folder, above[place + 1]]
            break
    return [one / FOLDER for one in dict.fromkeys(found) if (one / FOLDER).is_dir()]


@dataclass(frozen=True)
class Inversion:
    """A word that was read. letters: what stands for it in a marked prompt, one a vector."""

    name: str
    letters: str
    short_hash: str  # as A1111 writes it into its pictures


class Inversions:
    """The words that a model's text encoders have learned from files beside it."""

    def __init__(
        self, model: Path, tokenizers: Sequence[Any], encoders: Sequence[torch.nn.Module]
    ) -> None:
        self._model = model
        self._tokenizers, self._encoders = tokenizers, encoders
        self._known: dict[tuple[Path, int, int], Inversion] = {}  # by file, size and time
        self._names: dict[str, str] = {}  # by letters
        self._next_letter = FIRST_LETTER

    def mark(self, prompts: Sequence[str]) -> list[tuple[str, tuple[Inversion, ...]]]:
        """Each prompt as the tokenizers are to see it, and the words in it that are inversions.

        Raises ModelError with a sentence where the file of one cannot be used.
        """
        named = self._files()
        if not named:
            return [(prompt, ()) for prompt in prompts]
        longest_first = sorted(named, key=len, reverse=True)
        words = re.compile("|".join(map(word_pattern, longest_first)), re.IGNORECASE)
        marked = []
        for prompt in prompts:
            used: dict[str, Inversion] = {}

            def letters(match: re.Match[str], used: dict[str, Inversion] = used) -> str:
                one = self._read(named[match[0].lower()])
                used[one.letters] = one
                return one.letters

            marked.append((words.sub(letters, prompt), tuple(used.values())))
        return marked

    def unmark(self, text: str) -> str:
        """A part of a marked prompt with the names in the place of the letters."""
        for letters, name in self._names.items():
            text = re.sub(f"[{letters}]+", name, text)
        return text

    def _files(self) -> dict[str, Path]:
        """By names in lower case; of several files of one name, one that can be used, then the
        first."""
        found: dict[str, Path] = {}
        for folder in folders(self._model):
            for path in sorted(folder.rglob("*")):
                ending, name = path.suffix.lower(), path.stem.lower()
                if name and (ending == weights.SUFFIX or ending in PICKLES):
                    before = found.get(name)
                    if before is None or (ending == weights.SUFFIX and _is_pickle(before)):
                        found[name] = path
        return found

    def _read(self, path: Path) -> Inversion:
        if _is_pickle(path):
            raise ModelError(
                f"The prompt names the textual inversion “{path.stem}”, whose file {path.name} can "
                "hide a program and is not opened. Put a .safetensors file of it in its place, or "
                "take the word out of the prompt."
            )
        weights.require_plain_file(path)
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._known:
            self._known[key] = self._learn(path)
        return self._known[key]

    def _learn(self, path: Path) -> Inversion:
        """Give the text encoders the vectors of a file, as tokens of their own."""
        tables = [encoder.get_input_embeddings() for encoder in self._encoders]
        vectors = read_vectors(path, [table.weight.shape[1] for table in tables])
        count = len(vectors[0])
        letters = "".join(map(chr, range(self._next_letter, self._next_letter + count)))
        for tokenizer, encoder, own in zip(self._tokenizers, self._encoders, vectors, strict=True):
            tokenizer.add_tokens([AddedToken(one, normalized=False) for one in letters])
            ids = tokenizer.convert_tokens_to_ids(list(letters))
            _make_room(encoder, max(ids) + 1, tokenizer.eos_token_id)
            table = encoder.get_input_embeddings().weight
            table.data[ids] = own.to(table.device, table.dtype)
        self._next_letter += count
        self._names[letters] = path.stem
        return Inversion(path.stem, letters, weights.body_sha256(path)[:12])


def word_pattern(name: str) -> str:
    """Matches a name where it is not a part of a longer word or number."""
    return _edge(name[0], "<!") + re.escape(name) + _edge(name[-1], "!")


def _edge(letter: str, way: str) -> str:
    if letter.isdigit():
        return rf"(?{way}\d)"
    return f"(?{way}{LETTERS})" if re.match(LETTERS, letter) else ""


def _is_pickle(path: Path) -> bool:
    return path.suffix.lower() in PICKLES


def _make_room(encoder: torch.nn.Module, tokens: int, end: int) -> None:
    if encoder.get_input_embeddings().weight.shape[0] < tokens:
        encoder.resize_token_embeddings(tokens, mean_resizing=False)
    # Where a configuration has the end of a text wrong (2, in many of SDXL's), transformers takes
    # the highest of the tokens for it: that was so only as long as there were none beyond it.
    inner = getattr(encoder, "text_model", encoder)
    if inner.eos_token_id == 2:
        inner.eos_token_id = end


def read_vectors(path: Path, widths: list[int]) -> list[Tensor]:
    """(vectors, width) for each text encoder, in float32; ModelError for what cannot be used.

    The forms are A1111's (`emb_params`), diffusers' (one tensor by any name) and SDXL's.
    """
    header = weights.read_header(path)
    names = sorted(header.tensors)
    is_xl_file = set(names) == set(XL_KEYS)
    if is_xl_file != (len(widths) == 2) and (is_xl_file or len(names) == 1):
        kind = "Stable Diffusion XL" if is_xl_file else "Stable Diffusion 1 or 2"
        raise ModelError(f"{path.name} is a textual inversion for {kind}, not for this model.")
    if not is_xl_file and len(names) != 1:
        raise ModelError(f"{path.name} is not a textual inversion that is known here.")
    found = []
    for name, width in zip(XL_KEYS if is_xl_file else names, widths, strict=True):
        entry = header.tensors[name]
        if entry.dtype not in weights.FLOATS or len(entry.shape) not in (1, 2):
            raise ModelError(f"{path.name} is not a textual inversion that is known here.")
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
        found.append((name, count))
    if len({count for _, count in found}) != 1:
        raise ModelError(f"{path.name} is damaged: its two parts hold unlike numbers of vectors.")
    tensors = load_file(path)
    vectors = [tensors[name].float().reshape(count, -1) for name, count in found]
    if not all(bool(one.isfinite().all()) for one in vectors):
        raise ModelError(f"{path.name} holds values that are not numbers: download it again.")
    return vectors
