"""Pictures as files: their pixels, the settings that they carry, sheets, animations."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin

from studio.pictures import programs
from studio.pictures.infotext import Parameters, ParametersError

MOST_PIXELS = 64_000_000  # more than any model draws; a file that claims more is not opened
MOST_BYTES = 15_000_000  # of a file that is dropped in; the guard takes little more
TEXT_NAME = "parameters"  # where A1111 keeps the settings

FOREIGN_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")  # that other programs write settings into
OWN_FORMATS = ("PNG", "JPEG")  # of what the studio draws; Pillow opens many more, some by programs

Image.MAX_IMAGE_PIXELS = MOST_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def read_picture(path: Path, coarse_px: int | None = None) -> Image.Image:
    """The picture of one of the studio's files, which may have come with an archive of anybody's.

    coarse_px: a JPEG may be read at any size from there on, which is quick. Raises OSError for
    whatever is no picture of ours.
    """
    try:
        with Image.open(path, formats=OWN_FORMATS) as picture:
            if coarse_px is not None:
                picture.draft("RGB", (coarse_px, coarse_px))
            picture.load()
            return picture
    except OSError:
        raise
    except Exception as error:  # of any kind, as the formats have it
        raise OSError(f"{path.name} is not a picture that can be read") from error


def rgb(picture: Image.Image) -> Image.Image:
    """A picture of any mode in 8-bit RGB: deeper ones are scaled, and what is transparent shows a
    white ground, as on a page. Raises ValueError for modes that have no such form."""
    if picture.mode.startswith("I"):  # greys of 16 bits; 32 are how Pillow holds some of them
        greys = np.asarray(picture).astype(np.int64).clip(0, 65_535)
        return Image.fromarray((greys / 257).round().astype(np.uint8)).convert("RGB")
    if picture.mode == "F":  # light from 0 to 1
        greys = np.nan_to_num(np.asarray(picture)).clip(0, 1)
        return Image.fromarray((greys * 255).round().astype(np.uint8)).convert("RGB")
    if picture.mode == "La":  # multiplied by what can be seen of it
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        front = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", front.size, "white"), front).convert("RGB")
    return picture.convert("RGB")


def thumbnail(path: Path, size_px: int) -> bytes:
    """A small JPEG of a picture, `size_px` along its longer side. Raises OSError."""
    small = rgb(read_picture(path, 2 * size_px))
    small.thumbnail((size_px, size_px))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def png_with_text(path: Path, text: str) -> bytes:
    """The picture at `path` as a PNG that carries `text`; its pixels stay as they are.

    Raises OSError.
    """
    notes = PngImagePlugin.PngInfo()
    notes.add_text(TEXT_NAME, text)
    buffer = io.BytesIO()
    read_picture(path).save(buffer, "PNG", pnginfo=notes)
    return buffer.getvalue()


def fitted(content: bytes, size_px: tuple[int, int]) -> Image.Image | None:
    """A picture of any program, upright, cropped and scaled to (width, height); None if it cannot
    be read."""
    try:
        with Image.open(io.BytesIO(content), formats=FOREIGN_FORMATS) as picture:
            upright = rgb(ImageOps.exif_transpose(picture))
            return ImageOps.fit(upright, size_px, Image.Resampling.LANCZOS)
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ):
        return None


def parameters_of(data: bytes, most_bytes: int = MOST_BYTES) -> Parameters:
    """How a picture was made, as the file says; its pixels are never unpacked.

    Raises ParametersError when it does not say so, or when it is not what it claims to be.
    """
    if len(data) > most_bytes:
        raise ParametersError("This file is too large to be a picture from here.")
    try:
        with Image.open(io.BytesIO(data), formats=FOREIGN_FORMATS) as picture:
            too_large = picture.width * picture.height > MOST_PIXELS
            texts = {} if too_large else _texts(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        too_large = True
    except Exception as error:  # of any kind, as the formats have it
        raise ParametersError(
            "This is not a PNG, JPEG, WebP or AVIF that can be read. Drop the file as it was "
            "saved: what went through a messenger or another program has often lost its settings."
        ) from error
    if too_large:
        raise ParametersError("This picture claims to be too large to be opened safely.")
    return programs.read(texts)


def _texts(picture: Image.Image) -> dict[str, str]:
    """What a file says beside its pixels, by name: a PNG's texts, and those in EXIF."""
    texts = {name: text for name, text in picture.info.items() if isinstance(text, str)}
    exif = Image.Exif()  # of what was read already: `getexif` would unpack a PNG
    exif.load(picture.info.get("exif"))
    for tag in (ExifTags.Base.Make, ExifTags.Base.Model):  # ComfyUI's, in a WebP: `prompt:{…}`
        name, _, text = str(exif.get(tag, "")).partition(":")
        if name in ("prompt", "workflow"):
            texts.setdefault(name, text.strip("\0"))
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if isinstance(comment, bytes | str) and comment:
        texts.setdefault(TEXT_NAME, _user_comment(comment))
    return texts


def _user_comment(comment: bytes | str) -> str:
    """EXIF's way to keep a text: eight bytes that name its encoding, and mostly leave open in which
    order the two bytes of a letter stand."""
    if isinstance(comment, str):
        return comment.strip("\0")
    mark, text = comment[:8], comment[8:]
    if mark == b"UNICODE\0":
        is_little = text[1::2].count(0) > text[::2].count(0)  # most letters are plain ones
        return text.decode("utf-16-le" if is_little else "utf-16-be", "replace").strip("\0\ufeff")
    has_mark = mark in (b"ASCII\0\0\0", bytes(8))
    return (text if has_mark else comment).decode("utf-8", "replace").strip("\0")


# --- the story of a session ----------------------------------------------------------------------

CELL_PX = 256  # no picture of a story is larger: it is to be shown around
MARGIN_PX = 12
GROUND = "#f3f3f2"
INK = "#1c1d1f"
SHOWN_MS = 1200  # each round of an animation

Row = tuple[str, Sequence[Path | None]]  # a round's name, and its pictures as far as there are any


def sheet(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """A PNG with a row a round and a column a prompt, and their names."""
    cell_px = _cell_px(rows)
    name_px, line_px = 110, 34
    step_px = cell_px + MARGIN_PX
    size = (name_px + MARGIN_PX + len(columns) * step_px, line_px + len(rows) * step_px)
    whole = Image.new("RGB", size, GROUND)
    pen = ImageDraw.Draw(whole)
    for x, name in enumerate(columns):
        _write_line(pen, (name_px + MARGIN_PX + x * step_px, 10), name, cell_px)
    for y, (name, paths) in enumerate(rows):
        top = line_px + y * step_px
        _write_line(pen, (MARGIN_PX, top + cell_px // 2 - 8), name, name_px - MARGIN_PX)
        for x, path in enumerate(paths):
            _paste(whole, path, (name_px + MARGIN_PX + x * step_px, top), cell_px)
    return _saved([whole], "PNG")


def animation(rows: Sequence[Row], form: str) -> bytes:
    """A WebP or a GIF that shows one round after the other, for ever; the last one for longer."""
    cell_px = _cell_px(rows)
    across = min(3, max(len(paths) for _, paths in rows))
    down = math.ceil(max(len(paths) for _, paths in rows) / across)
    step_px, line_px = cell_px + MARGIN_PX, 30
    frames = []
    for name, paths in rows:
        size = (MARGIN_PX + across * step_px, line_px + MARGIN_PX + down * step_px)
        frame = Image.new("RGB", size, GROUND)
        _write_line(ImageDraw.Draw(frame), (MARGIN_PX, 12), name, across * cell_px)
        for place, path in enumerate(paths):
            y, x = divmod(place, across)
            corner = (MARGIN_PX + x * step_px, line_px + MARGIN_PX + y * step_px)
            _paste(frame, path, corner, cell_px)
        frames.append(frame)
    return _saved(frames, form)


def _saved(frames: list[Image.Image], form: str) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, object] = {}
    if len(frames) > 1:
        shown_ms = [SHOWN_MS] * (len(frames) - 1) + [2 * SHOWN_MS]
        options = {"save_all": True, "append_images": frames[1:], "duration": shown_ms, "loop": 0}
    if form == "WEBP":
        options |= {"quality": 90, "method": 4}
    frames[0].save(buffer, form, **options)
    return buffer.getvalue()


def _cell_px(rows: Sequence[Row]) -> int:
    """As large as the largest picture, doubled as long as it is tiny, and within bounds."""
    longest = 64
    for path in (path for _, paths in rows for path in paths if path is not None):
        longest = max(longest, *read_picture(path).size)
    while longest < CELL_PX // 2:
        longest *= 2
    return min(longest, CELL_PX)


def _paste(whole: Image.Image, path: Path | None, corner: tuple[int, int], cell_px: int) -> None:
    if path is None:
        return
    picture = read_picture(path)
    grows = max(picture.size) < cell_px
    way = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
    fitted = ImageOps.contain(rgb(picture), (cell_px, cell_px), way)
    x, y = ((cell_px - length) // 2 for length in fitted.size)
    whole.paste(fitted, (corner[0] + x, corner[1] + y))


def _write_line(
    pen: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, width_px: int
) -> None:
    """Text on one line, cut where it would leave its place."""
    font = ImageFont.load_default(14)
    text = " ".join(text.split())
    while text and pen.textlength(text, font) > width_px:
        text = text.removesuffix("…")[:-1].rstrip() + "…" if len(text) > 1 else ""
    pen.text(corner, text, INK, font)
