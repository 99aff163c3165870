"""Hypothesis strategies for hostile files and texts."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image as Pictures
from PIL import PngImagePlugin


def json_values() -> Any:
    from hypothesis import strategies as st

    leaves = st.none() | st.booleans() | st.floats() | st.text(max_size=20)
    numbers = st.integers() | st.sampled_from([0, -1, 2**31, 2**63, 10**30])
    return st.recursive(
        leaves | numbers,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
        ),
        max_leaves=6,
    )


def harmed(good: bytes) -> Any:
    """Variants of `good`: bytes changed, inserted or removed, truncated or unchanged."""
    from hypothesis import strategies as st

    # Often in the first bytes, which matter most.
    position = st.integers(0, min(len(good), 64)) | st.integers(0, len(good))
    edit = st.tuples(position, st.integers(0, 8), st.binary(max_size=8))

    def build(edits: list[tuple[int, int, bytes]], end: int | None) -> bytes:
        content = bytearray(good)
        for start, removed, new in edits:
            content[start : start + removed] = new
        return bytes(content[:end])

    return st.builds(build, st.lists(edit, max_size=4), st.none() | position)


def changed(document: Any, values: Any, depth: int = 0) -> Any:
    """A JSON document with one value replaced, anywhere from `depth` on."""
    from hypothesis import strategies as st

    def paths(value: Any, path: tuple = ()) -> Iterator[tuple]:
        yield path
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, inner in items:
                yield from paths(inner, (*path, key))

    def replaced(path: tuple, new: Any) -> Any:
        copy = json.loads(json.dumps(document))
        if not path:
            return new
        inner = copy
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = new
        return copy

    # Values near the top as often as the many further inside.
    all_paths = [path for path in paths(document) if len(path) >= depth]
    top = [path for path in all_paths if len(path) <= 3]
    return st.builds(replaced, st.sampled_from(top) | st.sampled_from(all_paths), values)


def headers() -> Any:
    """Safetensors files with arbitrary headers."""
    from hypothesis import strategies as st

    number = st.integers(-2, 64) | st.sampled_from([2**31, 2**62, 10**30, 1.5, "3", None])
    valid = st.builds(
        lambda start, size: {"dtype": "F32", "shape": [size], "data_offsets": [start, start + 4]},
        st.integers(0, 8),
        st.integers(0, 3),
    )
    entry = st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.sampled_from(["F32", "F16", "BF16", "X", 3]),
            "shape": st.lists(number, max_size=3) | json_values(),
            "data_offsets": st.lists(number, min_size=2, max_size=2) | json_values(),
        },
    )
    names = st.text(max_size=3) | st.sampled_from(["__metadata__", "../../a", "a" * 300])
    header = json_values() | st.dictionaries(names, entry | valid | json_values(), max_size=4)

    def build(header: Any, body: bytes, length: int | None) -> bytes:
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + body

    lengths = st.none() | st.integers(0, 2**64 - 1)
    good = build({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"1234", None)
    return st.builds(build, header, st.binary(max_size=16), lengths) | harmed(good)


def pngs(good: bytes) -> Any:
    """PNG files with arbitrary chunks and valid checksums; or harmed ones."""
    from hypothesis import strategies as st

    texts = st.binary(max_size=40).map(lambda value: b"parameters\0" + value)
    compressed = st.binary(max_size=40).map(lambda v: b"parameters\0\0" + zlib.compress(v * 1000))
    sizes = st.tuples(*[st.integers(0, 2**32 - 1)] * 2, st.binary(min_size=5, max_size=5))
    chunk = st.one_of(
        st.tuples(st.just(b"tEXt"), texts | st.binary(max_size=20)),
        st.tuples(st.just(b"zTXt"), compressed | st.binary(max_size=20)),
        st.tuples(st.just(b"iTXt"), texts.map(lambda v: v + b"\0\0\0\0") | st.binary(max_size=20)),
        st.tuples(st.just(b"IHDR"), sizes.map(lambda v: struct.pack(">II", *v[:2]) + v[2])),
        st.tuples(
            st.sampled_from([b"IDAT", b"PLTE", b"acTL", b"fcTL", b"iCCP", b"eXIf", b"IEND"]),
            st.binary(max_size=30),
        ),
        st.tuples(st.binary(min_size=4, max_size=4), st.binary(max_size=20)),
    )

    def build(chunks: list[tuple[bytes, bytes]], at: int) -> bytes:
        new = b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
        return good[:at] + new + good[at:]

    positions = st.sampled_from([8, 33])  # before and after the first chunk
    return st.builds(build, st.lists(chunk, max_size=4), positions) | harmed(good)


def templates() -> Any:
    from hypothesis import strategies as st

    marks = st.sampled_from(
        [*"{}|[]()$_%:@#\\~!=*<>\"'", "__animal__", "2$$", "a", " ", "1.5", "\0"]
    )
    return st.lists(marks, max_size=60).map("".join) | st.text(max_size=200)


def archives(good: Path) -> Any:
    """Archives with one value of a row replaced."""
    from hypothesis import strategies as st

    pack, document = _unpacked(good)
    # also the unchanged one: a reader that accepts none proves nothing
    return st.one_of(st.just(document), changed(document, json_values())).map(pack)


def _unpacked(good: Path) -> tuple[Callable[[Any], bytes], Any]:
    """The rows of an archive, and a function that packs other rows in their place."""
    with zipfile.ZipFile(good) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(contents.pop("session.json"))

    def pack(rows: Any) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("session.json", json.dumps(rows), zipfile.ZIP_DEFLATED)
            for name, content in contents.items():
                archive.writestr(name, content)
        return buffer.getvalue()

    return pack, document


def archives_of_wrong_values(good: Path) -> Any:
    """Archives with a wrong value in one column of a row: every column of the schema is equally
    frequent, whatever the rows hold."""
    from hypothesis import strategies as st

    from studio.store.schema import metadata

    pack, document = _unpacked(good)
    columns = [
        (table.name, column.name)
        for table in metadata.sorted_tables
        for column in table.columns
        if document["tables"].get(table.name)
    ]

    def put(where: tuple[str, str], place: int, value: Any) -> bytes:
        made = json.loads(json.dumps(document))
        rows = made["tables"][where[0]]
        rows[place % len(rows)][where[1]] = value
        return pack(made)

    extremes = st.sampled_from([2**63, -(2**63) - 1, 1e308, -1.0, "", "\0", "x" * 200_000, [], {}])
    wrong = st.builds(put, st.sampled_from(columns), st.integers(0, 99), json_values() | extremes)
    return st.just(pack(document)) | wrong


def expansions() -> Any:
    """Prompts whose variables, alternatives and lists expand one another again and again."""
    from hypothesis import strategies as st

    say = st.sampled_from(["{v} {v}", "${v}${v}${v}", "{{{v}|{v}}}", "{{3-9$$ $${v}|{v}}}", "{v}"])

    def chain(begins: str, links: list[str], end: str) -> str:
        text = f"${{v0={begins}}}"
        for number, link in enumerate(links):
            text += f"${{v{number + 1}={link.replace('{v}', f'${{v{number}}}')}}}"
        return f"{text}{end}${{v{len(links)}}}"

    chains = st.builds(
        chain,
        st.sampled_from(["a", "{x|y}", "__animal__", "{__animal__|__animal__}", ""]),
        st.lists(say, max_size=40),
        st.sampled_from(["", "a ", "{z} "]),
    )
    nested = st.builds(
        lambda depth, inner: "{" * depth + inner + "|x}" * depth,
        st.integers(0, 400),
        st.sampled_from(["a", "__animal__", "{2$$__animal__}"]),
    )
    many = st.builds(
        lambda count, one: one * count,
        st.integers(1, 300),
        st.sampled_from(["__animal__ ", "{2$$__animal__} ", "{a|b}", "{999$$__animal__}"]),
    )
    return chains | nested | many


def pictures_of_programs() -> Any:
    """PNG files with settings of other programs, valid or nearly so."""
    from hypothesis import strategies as st

    keys = st.sampled_from([str(number) for number in range(6)])
    link = st.tuples(keys, st.integers(0, 2)).map(list)
    names = st.sampled_from(
        [
            *("seed", "steps", "cfg", "positive", "negative", "model", "latent_image", "samples"),
            *("text", "text_g", "clip", "width", "height", "conditioning", "conditioning_1"),
            *("lora_name", "ckpt_name", "sampler", "sigmas", "guider", "noise", "images", "value"),
        ]
    )
    node = st.fixed_dictionaries(
        {
            "class_type": st.sampled_from(["KSampler", "SaveImage", "CLIPTextEncode", "Reroute"]),
            "inputs": st.dictionaries(names, link | json_values(), max_size=8),
        }
    )
    graph = st.dictionaries(keys, node | json_values(), max_size=6)
    flat = st.dictionaries(
        st.sampled_from(["prompt", "positive_prompt", "steps", "seed", "width", "loras", "image"]),
        json_values(),
    )
    # Half of them have what a picture always says, so that some are accepted.
    flat |= flat.map(lambda more: {**more, "prompt": "a cat", "steps": 20, "seed": 1})
    where = st.sampled_from(["invokeai_metadata", "sd-metadata", "Comment", "parameters"])
    said = st.tuples(st.just("prompt"), graph) | st.tuples(where, flat)
    texts = said.map(lambda one: {one[0]: json.dumps(one[1])})
    return (texts | st.dictionaries(where, st.text(max_size=60))).map(_png_saying)


def _png_saying(texts: dict[str, str]) -> bytes:
    notes = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        notes.add_itxt(name, text.encode(errors="replace").decode())
    buffer = io.BytesIO()
    Pictures.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=notes)
    return buffer.getvalue()
