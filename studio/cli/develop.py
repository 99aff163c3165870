"""`bench` and `test`: for developers of the studio."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

from studio.cli.arguments import RESEARCH

ROOT = Path(__file__).resolve().parent.parent.parent


def bench(arguments: argparse.Namespace) -> int:
    """Run a module of `studio.bench` or `studio.bench.research`."""
    name = arguments.benchmark.replace("-", "_")
    package = "studio.bench.research" if name in RESEARCH else "studio.bench"
    return importlib.import_module(f"{package}.{name}").main(arguments.rest) or 0


def test(arguments: argparse.Namespace) -> int:
    """Run pytest."""
    return subprocess.call([sys.executable, "-m", "pytest", *arguments.rest], cwd=ROOT)
