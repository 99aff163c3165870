"""The model that a benchmark of speed runs on: one that is there, or a family's true shape.

A shape has random weights and all of its true modules: how long it takes and what memory it needs
do not depend on what it has learned.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from studio import models
from studio.bench.families import FAMILIES, make_pipeline

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="starter", help="a folder or checkpoint")
    parser.add_argument(
        "--shape", choices=FAMILIES, help="of this family and true size, with random weights"
    )
    parser.add_argument("--narrow", action="store_true", help="the shape with a few channels only")
    parser.add_argument("--px", type=int, help="of the pictures; default: the model's own")
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), help="of the base's weights; default: the device's own"
    )


@contextlib.contextmanager
def loaded(arguments: argparse.Namespace) -> Iterator[tuple[models.Denoiser, int]]:
    """The model that the arguments name, and of how many pixels its pictures shall be."""
    with contextlib.ExitStack() as held:
        path = arguments.model
        if arguments.shape:
            folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="shape-")))
            pipeline = make_pipeline(arguments.shape, arguments.narrow, torch.bfloat16)
            path = str(folder / arguments.shape)
            pipeline.save_pretrained(path)  # in half precision: SDXL takes 7 GB
            del pipeline
        dtype = DTYPES[arguments.dtype] if arguments.dtype else None
        size_px = arguments.px or models.inspect(path).size_px
        yield models.load(path, dtype=dtype), size_px
