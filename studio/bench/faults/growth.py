"""Texts and headers of growing size: the work grows as they do, and hardly faster.

Work is counted in lines of Python that are run, not in seconds: for a text four times as long it
may be little more than four times as much. What expressions and libraries do meanwhile is no such
line, so that the longest text there can be is read as well, within the limit. `torn`: the work grew
faster, or something unforeseen was raised. `hung`: the longest took longer than the limit.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.bench.faults.operations import Home
from studio.bench.faults.trial import Row
from studio.lora import format as lora_format
from studio.pictures import comfyui, infotext, programs
from studio.prompting import alternatives, emphasis, foreign, styles
from studio.settings import MAX_PROMPT_CHARACTERS, SettingsError
from studio.weights import ModelError, read_header

LEAST = 250  # times that a piece is repeated, at first
TIMES = 4
MOST_GROWTH = 1.25 * TIMES  # four times the text, a quarter more than four times the work
LIMIT_S = 10.0
SENTENCES = (SettingsError, infotext.ParametersError, ModelError)


@dataclass(frozen=True)
class Reader:
    """`read` takes a text of so many pieces; `pieces` are repeated, or make a text of a number."""

    what: str
    read: Callable[[str], object]
    pieces: tuple[str | Callable[[int], str], ...]
    longest: int  # pieces in the longest text


def rows(
    homes: dict[str, Home],
    place: Path,
    quick: bool,
    with_strace: bool,
    wanted: Callable[[str], bool],
) -> Iterator[Row]:
    for reader in readers(place):
        row = Row(f"growing: {reader.what}")
        if not wanted(row.fault):
            continue
        for piece in reader.pieces:
            tally(row, reader, piece, LEAST * TIMES if quick else reader.longest)
        yield row


def tally(row: Row, reader: Reader, piece: str | Callable[[int], str], longest: int) -> None:
    """Count the work of growing texts of one piece."""
    row.tried += 1

    def text_of(count: int) -> str:
        return piece(count) if callable(piece) else piece * count

    what = f"{text_of(2)[:60]!r}"
    try:
        lines_of(reader.read, text_of(LEAST))  # what is only done once
        some, more = (lines_of(reader.read, text_of(n)) for n in (LEAST, LEAST * TIMES))
        if more > MOST_GROWTH * some:
            row.torn += 1
            row.problems.append(f"{what}: {some} lines, and {more} for {TIMES} times as much")
        text, started_s = text_of(longest), time.monotonic()
        with contextlib.suppress(*SENTENCES):
            reader.read(text)
        if time.monotonic() - started_s > LIMIT_S:
            row.hung += 1
            row.problems.append(f"{what}: {time.monotonic() - started_s:.0f} s")
    except Exception:
        row.torn += 1
        row.problems.append(f"{what}: {traceback.format_exc()[-600:]}")


def lines_of(read: Callable[[str], object], text: str) -> int:
    """How many lines of Python are run to read a text."""
    lines = 0

    def count(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        with contextlib.suppress(*SENTENCES):
            read(text)
    finally:
        sys.settrace(before)
    return lines


def readers(place: Path) -> list[Reader]:
    """Everything that reads texts of others, with pieces that have cost their like dear."""
    folder = place / "growing"
    folder.mkdir(exist_ok=True)
    lists = folder / "wildcards"
    lists.mkdir(exist_ok=True)
    (lists / "animal.txt").write_text("cat\ndog\n", "utf-8")
    whole_prompts = MAX_PROMPT_CHARACTERS // 10

    def header(text: str) -> object:
        path = folder / "a.safetensors"
        path.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode())
        return read_header(path)

    def lora(text: str) -> object:
        document = json.loads(text)
        body = max(entry["data_offsets"][1] for key, entry in document.items() if key[0] != "_")
        path = folder / "lora.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + bytes(body))
        return lora_format.read(path)

    infotexts = ("a", "a ", "ab: ", 'ab:"\\', "<lora:", "\n", "Steps: 1, ", "Negative prompt: ")
    return [
        Reader("settings of A1111", infotext.read, infotexts, 10_000),
        Reader("graphs of ComfyUI", comfyui.read, (_chain, _circle, _texts), 4000),
        Reader(
            "settings of InvokeAI and others",
            lambda text: programs.read({"sd-metadata": text}),
            (_prompts, lambda n: "[" * n, lambda n: '{"image": {"prompt": "' + "[a]" * n + '"}}'),
            4000,
        ),
        Reader(
            "emphasis", emphasis.weighted, ("(", "((a", "[(", "(a:1.", ")", "\\", ":1)"), 50_000
        ),
        Reader(
            "signs of other programs",
            lambda text: foreign.remarks([text]),
            ("<lora:", "[a:", "[a|", " AND", "[::", "BREAK"),
            50_000,
        ),
        Reader(
            "alternatives",
            lambda text: alternatives.expand(text, 0, lists),
            ("{a|b}", "{a}", "__animal__", "a, ", "${a=b}"),
            whole_prompts,
        ),
        Reader(
            "styles",
            lambda text: styles.parse(f"name,prompt,negative_prompt\n{text}"),
            ("a,b,c\n", '"', "a,", "\n"),
            20_000,
        ),
        Reader("headers of models", header, (_tensors, _words, _shape), 20_000),
        Reader("LoRA files", lora, (_layers, _alphas), 5000),
    ]


# --- texts of so many pieces ---------------------------------------------------------------------


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def _chain(count: int) -> str:
    """Conditionings that each lead to the next."""
    graph = {str(n): _node("X", conditioning=[str(n + 1), 0]) for n in range(count)}
    graph["s"] = _node("KSampler", steps=1, cfg=1, positive=["0", 0], seed=["0", 0])
    return json.dumps(graph)


def _circle(count: int) -> str:
    """Every node is a sampler, and comes after the next."""
    names = ("latent_image", "positive", "model", "guider", "seed", "clip")
    return json.dumps(
        {
            str(n): _node("S", steps=1, cfg=1, **{k: [str((n + 1) % count), 0] for k in names})
            for n in range(count)
        }
    )


def _texts(count: int) -> str:
    """A node of very many texts."""
    texts = {f"text_{number}": f"word {number}" for number in range(count)}
    graph = {"0": _node("X", **texts), "s": _node("K", steps=1, cfg=1, positive=["0", 0])}
    return json.dumps(graph)


def _prompts(count: int) -> str:
    return json.dumps({"image": {"prompt": [{"prompt": "a [b]"}] * count, "steps": 1}})


def _tensors(count: int) -> str:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return json.dumps({f"a.{number}": entry for number in range(count)})


def _words(count: int) -> str:
    return json.dumps({"__metadata__": {f"word {number}": "x" for number in range(count)}})


def _shape(count: int) -> str:
    return json.dumps({"a": {"dtype": "F32", "shape": [2] * count, "data_offsets": [0, 4]}})


def _layers(count: int, metadata: dict[str, str] | None = None) -> str:
    """A LoRA of so many layers, in diffusers' names."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    for number in range(count):
        for place, half in enumerate("AB"):
            at = 4 * (2 * number + place)
            entry = {"dtype": "F32", "shape": [1, 1], "data_offsets": [at, at + 4]}
            header[f"unet.down_blocks.{number}.to_q.lora_{half}.weight"] = entry
    return json.dumps(header)


def _alphas(count: int) -> str:
    """The same, with an alpha for each of them."""
    alphas = {f"down_blocks.{number}.to_q": 1 for number in range(count)}
    said = json.dumps({"unet.alpha_pattern": alphas})
    return _layers(count, {lora_format.DIFFUSERS_HEADER: said})
