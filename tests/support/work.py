"""Work as a number that is the same on every machine: no test of growth looks at a clock."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def steps_of(function: Callable[[], Any], most: int | None = None) -> int:
    """How many bytecode instructions of Python it takes; what C does within one is not counted.

    Stops with an AssertionError at more than `most`.
    """
    count = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            count += 1
            assert most is None or count <= most, f"more than {most} steps"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count
