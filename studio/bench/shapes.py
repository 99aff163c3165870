"""The model of a speed benchmark: an existing one, or a family's true shape with random weights.

Time and memory depend only on the shape of a model, not on the values of its weights.
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
        "--shape", choices=FAMILIES, help="a family's true size, with random weights"
    )
    parser.add_argument("--narrow", action="store_true", help="the shape with few channels")
    parser.add_argument("--px", type=int, help="of the pictures; default: the model's own")
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), help="of the base's weights; default: the device's own"
    )


@contextlib.contextmanager
def loaded(arguments: argparse.Namespace) -> Iterator[tuple[models.Denoiser, int]]:
    """The model that the arguments name, and the size of its pictures in pixels."""
    with contextlib.ExitStack() as stack:
        path = arguments.model
        if arguments.shape:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shape-")))
            pipeline = make_pipeline(arguments.shape, arguments.narrow, torch.bfloat16)
            path = str(folder / arguments.shape)
            pipeline.save_pretrained(path)  # in half precision: SDXL takes 7 GB
            del pipeline
        dtype = DTYPES[arguments.dtype] if arguments.dtype else None
        size_px = arguments.px or models.inspect(path).size_px
        yield models.load(path, dtype=dtype), size_px
