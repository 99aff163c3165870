"""Hypothesis strategies for hostile files and texts."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any


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
