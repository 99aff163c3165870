"""Pictures as files: the text that a PNG carries, sheets, animations. Pillow and nothing else."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image, PngImagePlugin

from studio.parameters import ParametersError

MOST_PIXELS = 64_000_000  # more than any model draws; a file that claims more is not opened
MOST_BYTES = 64_000_000
TEXT_NAME = "parameters"  # where A1111 keeps the settings

Image.MAX_IMAGE_PIXELS = MOST_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def png_with_text(path: Path, text: str) -> bytes:
    """The picture at `path` as a PNG that carries `text`; its pixels stay as they are."""
    notes = PngImagePlugin.PngInfo()
    notes.add_text(TEXT_NAME, text)
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.save(buffer, "PNG", pnginfo=notes)
    return buffer.getvalue()


def text_of_png(data: bytes) -> str:
    """The settings that a PNG carries; its pixels are never unpacked.

    Raises ParametersError when there are none, or when the file is not what it claims to be.
    """
    if len(data) > MOST_BYTES:
        raise ParametersError("This file is too large to be a picture from here.")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            too_large = picture.width * picture.height > MOST_PIXELS
            text = picture.info.get(TEXT_NAME, "")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        too_large = True
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ParametersError(
            "This is not a PNG that can be read. Drop the file as it was saved: what went through "
            "a messenger or another program has often lost its settings."
        ) from error
    if too_large:
        raise ParametersError("This picture claims to be too large to be opened safely.")
    if not isinstance(text, str) or not text.strip():
        raise ParametersError("This picture does not say how it was made.")
    return text
