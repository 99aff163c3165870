"""Picks as other people's programs keep them: out to those, and in from those.

Two forms are written and read:

pickapic    a folder for the `datasets` library, with one parquet file in `data/`. It has the
            columns of Pick-a-Pic (yuvalkirstain/pickapic_v1 and _v2), a row a pick, the pictures
            in it as PNG; and after them columns of our own: how the pictures were made.
d3po        a folder as the published code of D3PO keeps it (yk7333/d3po): `images/00000.png` and
            on, `prompt.json` with a prompt a row, and `preference.json` with a score for every
            picture of a row. Of several such files the mean counts, as there.

A third is only read: a folder of one's own pairs, with pictures of the same names in `chosen/` and
`rejected/` and the prompt in a text file of that name (.txt or .caption), in either (or in the
picture, as A1111 and the studio write it).

Pictures from elsewhere come without the steps of their drawing. So they are what Diffusion-DPO can
learn from, and D3PO cannot: they are kept as if drawn without noise (eta 0), which it refuses.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image
import PIL.ImageOps
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from studio.engine import trajectory
from studio.engine.trajectory import Trajectory
from studio.files import sha256
from studio.pictures import files as picture_files
from studio.prompting import text_files
from studio.settings import (
    CHOICES,
    MAX_PROMPT_CHARACTERS,
    REASONS,
    Choice,
    Reason,
    SamplingSettings,
    SessionSettings,
    StartLora,
)
from studio.store import Image, PickedPair, Session, Store, write_atomically

if TYPE_CHECKING:
    from studio.models import Denoiser

FORMS = ("pickapic", "d3po")
PICTURE_KINDS = ("PNG", "JPEG", "WEBP")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
CAPTION_ENDINGS = (".txt", ".caption")
ROWS_AT_ONCE = 32  # in memory, with their pictures
MOST_PROMPTS = 1000  # of a session
LARGEST_JSON_BYTES = 64_000_000
LARGEST_PICTURE_BYTES = 200_000_000

COLUMNS = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
        # ours
        ("choice", pa.string()),
        ("strength", pa.string()),
        ("reason", pa.string()),
        ("note", pa.string()),
        ("seed_0", pa.int64()),
        ("seed_1", pa.int64()),
        ("adapter_0", pa.string()),
        ("adapter_1", pa.string()),
        ("base_hash", pa.string()),
        ("sampling", pa.string()),
    ]
)
NEEDED = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
LABELS: dict[str | None, tuple[float, float]] = {
    "left": (1.0, 0.0),
    "right": (0.0, 1.0),
    "tie": (0.5, 0.5),
}

README = """\
---
task_categories:
- text-to-image
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---

Picks made with D3PO Studio: {count}, one a row. The columns up to `num_example_per_prompt` are
those of Pick-a-Pic; `jpg_0` (left) and `jpg_1` (right) hold PNG files. `label_0` and `label_1` are
1 and 0, or 0.5 each for a tie; pairs of which both were bad, or that were skipped, have no label
(see `choice`). `strength` is "much better" or "better", `reason` what was said of why, and
`sampling` the settings both pictures were drawn with.
"""


class ExchangeError(Exception):
    """Picks that cannot be read or written; the message is a sentence."""


@dataclass(frozen=True)
class Given:
    """A pick from elsewhere: encoded pictures, and what was said of them."""

    prompt: str
    left: bytes
    right: bytes
    choice: Choice
    much_better: bool = False
    reason: Reason | None = None
    name: str = ""  # by which its maker knows it
    problem: str = ""  # why it cannot be used, if its reader knows
    remark: str = ""  # what else should be told of it


@dataclass(frozen=True)
class TakenIn:
    """What became of picks from elsewhere."""

    session: Session
    picks: int
    left_out: int  # whose pictures or prompts cannot be used
    remarks: tuple[str, ...] = ()  # which those were and why, and how others were read


# --- out -----------------------------------------------------------------------------------------


def write(
    folder: Path, form: str, picked: Iterable[PickedPair], path_of: Callable[[Image], Path]
) -> tuple[int, int]:
    """Write picks into a new folder; gives how many, and how many were left out: those whose
    pictures are missing and, in the form of D3PO, those that were skipped.

    What was asked a second time is not among them. Raises ExchangeError for a folder that exists.
    """
    if folder.exists():
        raise ExchangeError(f"There is something at {folder} already: choose another folder.")
    write_form = {"pickapic": _write_pickapic, "d3po": _write_d3po}[form]
    first_asked = [one for one in picked if one.pair.repeat_of is None]
    if not first_asked:
        raise ExchangeError("There are no picks to write yet.")
    there = [
        one
        for one in first_asked
        if all(path_of(side).is_file() for side in (one.pair.left, one.pair.right))
    ]
    done = 0

    def draft(path: Path) -> None:
        nonlocal done
        path.mkdir()
        done = write_form(path, there, path_of)

    write_atomically(folder, draft)
    return done, len(first_asked) - done


def _write_pickapic(
    folder: Path, picked: list[PickedPair], path_of: Callable[[Image], Path]
) -> int:
    (folder / "data").mkdir()
    (folder / "README.md").write_text(README.format(count=len(picked)), "utf-8")
    prompts = [one.pair.prompt for one in picked]
    path = folder / "data" / "train-00000-of-00001.parquet"
    with pq.ParquetWriter(path, COLUMNS) as writer:
        for start in range(0, len(picked), ROWS_AT_ONCE):
            part = picked[start : start + ROWS_AT_ONCE]
            rows = [
                _row(one, number, prompts.count(one.pair.prompt), path_of)
                for number, one in enumerate(part, start)
            ]
            writer.write_table(pa.Table.from_pylist(rows, COLUMNS))
    return len(picked)


def _row(
    one: PickedPair, number: int, of_prompt: int, path_of: Callable[[Image], Path]
) -> dict[str, Any]:
    pair, pick = one.pair, one.pick
    sides = (pair.left, pair.right)
    labels = LABELS.get(pick.choice)
    best = {"left": pair.left.id, "right": pair.right.id, "tie": "tie"}.get(pick.choice)
    row = {
        "are_different": True,
        "best_image_uid": best,
        "caption": pair.prompt,
        "created_at": datetime.fromtimestamp(pick.created_at_s, UTC).replace(tzinfo=None),
        "has_label": labels is not None,
        "ranking_id": number,
        "user_id": 0,
        "num_example_per_prompt": of_prompt,
        "choice": pick.choice,
        "reason": pick.reason,
        "note": pair.note,
        "base_hash": pair.left.base_hash,
        "sampling": json.dumps(pair.left.sampling.to_dict()),
    }
    if pick.choice in ("left", "right"):
        row["strength"] = "much better" if pick.much_better else "better"
    for place, side in enumerate(sides):
        row |= {
            f"image_{place}_uid": side.id,
            f"image_{place}_url": "",
            f"jpg_{place}": path_of(side).read_bytes(),
            f"label_{place}": labels[place] if labels else None,
            f"model_{place}": f"D3PO Studio, base model {side.base_hash[:16]}",
            f"seed_{place}": side.seed,
            f"adapter_{place}": side.adapter_id,
        }
    return row


def _write_d3po(folder: Path, picked: list[PickedPair], path_of: Callable[[Image], Path]) -> int:
    (folder / "images").mkdir()
    prompts, scores = [], []
    for one in picked:
        row = {"left": [1, 0], "right": [0, 1], "tie": [1, 1], "both_bad": [0, 0]}
        if one.pick.choice not in row:
            continue
        for place, side in enumerate((one.pair.left, one.pair.right), 2 * len(scores)):
            content = path_of(side).read_bytes()
            (folder / "images" / f"{place:05}.png").write_bytes(content)
        prompts.append(one.pair.prompt)
        scores.append(row[one.pick.choice])
    (folder / "prompt.json").write_text(json.dumps(prompts, ensure_ascii=False), "utf-8")
    (folder / "preference.json").write_text(json.dumps(scores), "utf-8")
    return len(scores)


# --- in ------------------------------------------------------------------------------------------


def read(path: Path) -> Iterator[Given]:
    """The picks at `path`, in whichever of the three forms they are.

    Raises ExchangeError, also in between, with a sentence on what is wrong.
    """
    try:
        return _read(path)
    except OSError as error:
        raise ExchangeError(f"{path} cannot be read: {error.strerror or error}.") from error


def _read(path: Path) -> Iterator[Given]:
    if path.suffix == ".zip":
        raise ExchangeError(f"{path.name} is an archive: unpack it, and choose the folder.")
    if path.is_file() and path.suffix == ".parquet":
        return _read_pickapic([path])
    if not path.is_dir():
        raise ExchangeError(f"There is no folder and no parquet file at {path}.")
    if tables := sorted(table for table in path.rglob("*.parquet") if table.is_file()):
        return _read_pickapic(tables)
    if (path / "prompt.json").is_file():
        return _read_d3po(path)
    if (path / "chosen").is_dir() and (path / "rejected").is_dir():
        return _read_pairs(path)
    raise ExchangeError(
        f"{path} holds no picks that can be read: neither parquet files (Pick-a-Pic), nor "
        "prompt.json with images/ (D3PO), nor the folders chosen and rejected with pictures of the "
        "same names."
    )


def _read_pickapic(paths: list[Path]) -> Iterator[Given]:
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                missing = [name for name in NEEDED if name not in file.schema_arrow.names]
                if missing:
                    raise ExchangeError(
                        f"{path.name} does not have the columns of Pick-a-Pic: "
                        f"{', '.join(missing)} is missing."
                    )
                wanted = (*NEEDED, "has_label", "choice", "strength", "reason")
                columns = [name for name in wanted if name in file.schema_arrow.names]
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                    yield from filter(None, map(_given_of_row, batch.to_pylist()))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ExchangeError(f"{path.name} is damaged, or no parquet file.") from error


def _given_of_row(row: dict[str, Any]) -> Given | None:
    """None: a row without a pick."""
    labels = row["label_0"], row["label_1"]
    choice = row.get("choice")
    if choice not in CHOICES:
        if row.get("has_label") is False or None in labels:
            return None
        choice = "tie" if labels[0] == labels[1] else "left" if labels[0] > labels[1] else "right"
    is_better = choice in ("left", "right")
    return Given(
        prompt=row["caption"] if isinstance(row["caption"], str) else "",
        left=_bytes(row["jpg_0"]),
        right=_bytes(row["jpg_1"]),
        choice=choice,
        much_better=is_better and row.get("strength") == "much better",
        reason=row.get("reason") if is_better and row.get("reason") in REASONS else None,
    )


def _bytes(value: Any) -> bytes:
    """As the datasets library keeps a picture, too: {"bytes": ..., "path": ...}."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else b""


def _read_d3po(folder: Path) -> Iterator[Given]:
    prompts = _json(folder / "prompt.json")
    votes = [_json(path) for path in sorted(folder.glob("*.json")) if path.name != "prompt.json"]
    if not votes:
        raise ExchangeError(f"Beside prompt.json in {folder} there is no file with the scores.")
    rows = min(map(len, votes))
    if not rows:
        raise ExchangeError(f"There are no scores in {folder}.")
    if rows > len(prompts):
        raise ExchangeError(f"There are {rows} rows of scores in {folder}, and fewer prompts.")
    try:
        widths = {len(vote[row]) for vote in votes for row in range(rows)}
        if len(widths) != 1:
            raise ValueError
        scores = [
            [sum(map(float, each)) for each in zip(*(vote[row] for vote in votes), strict=True)]
            for row in range(rows)
        ]
        if not all(math.isfinite(score) for scored in scores for score in scored):
            raise ValueError
    except (TypeError, ValueError) as error:
        raise ExchangeError(
            f"The scores in {folder} are not rows of as many numbers as there are pictures."
        ) from error
    (width,) = widths
    for row, scored in enumerate(scores):
        prompt = prompts[row] if isinstance(prompts[row], str) else ""
        for one, other in itertools.combinations(range(width), 2):
            choice = "tie"
            if scored[one] != scored[other]:
                choice = "left" if scored[one] > scored[other] else "right"
            sides = (folder / "images" / f"{width * row + n:05}.png" for n in (one, other))
            yield Given(prompt, *map(_content, sides), choice=choice)


def _json(path: Path) -> list:
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_JSON_BYTES:
            raise ValueError("no file, or too large")
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExchangeError(f"{path.name} cannot be read as JSON.") from error
    if not isinstance(found, list):
        raise ExchangeError(f"{path.name} does not hold a list.")
    return found


def _read_pairs(folder: Path) -> Iterator[Given]:
    chosen, rejected = (_by_stem(folder / side) for side in ("chosen", "rejected"))
    used: set[Path] = set()
    number = 0
    for one in sorted(itertools.chain(*chosen.values())):
        if one.suffix.lower() not in PICTURE_ENDINGS:
            continue
        other = _of_the_same_name(one, rejected)
        used |= {one} | ({other} if other else set())
        prompt, remark, problem = _prompt_of(one, other, (chosen, rejected))
        if other is None:
            problem = "there is no picture of this name in rejected"
        sides = [_content(one), _content(other) if other else b""]
        more = {"name": f"chosen/{one.name}", "problem": problem, "remark": remark}
        # by turns on the left and on the right, as if they had been drawn by lot
        if number % 2:
            yield Given(prompt, *sides[::-1], choice="right", **more)
        else:
            yield Given(prompt, *sides, choice="left", **more)
        number += 1
    for path in sorted(set(itertools.chain(*chosen.values(), *rejected.values())) - used):
        if path.suffix.lower() in CAPTION_ENDINGS or path.name.startswith("."):
            continue
        problem = "it is no PNG, JPEG or WebP"
        if path.suffix.lower() in PICTURE_ENDINGS:
            problem = "there is no picture of this name in chosen that is left for it"
        yield Given("", b"", b"", "tie", name=f"{path.parent.name}/{path.name}", problem=problem)


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """The files in a folder by their names without ending, in small letters."""
    found: dict[str, list[Path]] = {}
    try:
        for path in sorted(folder.iterdir()):
            if not path.is_dir():
                found.setdefault(path.stem.lower(), []).append(path)
    except OSError as error:
        raise ExchangeError(f"{folder} cannot be read: {error.strerror}.") from error
    return found


def _of_the_same_name(picture: Path, others: Mapping[str, list[Path]]) -> Path | None:
    """The picture that goes with another; neither its ending nor large letters matter where there
    is only one such."""
    alike = others.get(picture.stem.lower(), [])
    found = [path for path in alike if path.suffix.lower() in PICTURE_ENDINGS]
    alike = (
        [path for path in found if path.name == picture.name]
        or [path for path in found if path.stem == picture.stem]
        or found
    )
    return min(alike, default=None)


def _prompt_of(
    one: Path, other: Path | None, folders: Sequence[Mapping[str, list[Path]]]
) -> tuple[str, str, str]:
    """Of a text file beside either picture, or from the pictures: the prompt, how it was read where
    that is a guess, and what was wrong with it."""
    stems = (one.stem.lower(), (other or one).stem.lower())
    for stem, folder in zip(stems, folders, strict=True):
        for path in folder.get(stem, []):
            if path.suffix.lower() not in CAPTION_ENDINGS:
                continue
            try:
                found = text_files.read(path, 4 * MAX_PROMPT_CHARACTERS)
            except (OSError, ValueError) as error:
                return "", "", f"{path.parent.name}/{path.name} cannot be read: {error}"
            guess = f"{path.parent.name}/{path.name} was read as {found.encoding}"
            return found.text.strip(), guess if found.is_guess else "", ""
    for picture in filter(None, (one, other)):
        with contextlib.suppress(OSError, ValueError):
            return picture_files.parameters_of(_content(picture)).prompt, "", ""
    return "", "", "it has no prompt: put one beside it in a text file of its name"


def _content(path: Path) -> bytes:
    """b"" where nothing can be read, which is then left out."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_PICTURE_BYTES:
            return b""  # a pipe, say, of which there is no end
        return path.read_bytes()
    except OSError:
        return b""


def take_in(
    store: Store,
    denoiser: Denoiser,
    base: tuple[str, StartLora | None],
    name: str,
    given: Iterable[Given],
    size_px: tuple[int, int],
    told: Callable[[Session, int], object] = lambda session, done: None,
) -> TakenIn:
    """Make a session of picks from elsewhere, ready to be learned from by Diffusion-DPO.

    Pictures are cut to the size asked for (width, height), and encoded by the base model's VAE.
    `base` is what the denoiser was made of (`SessionSettings.base`). `told` is called with the
    session and the number of picks so far, first at none. Raises ExchangeError when none can be
    used, and whatever `told` raises; there is no session then.
    """
    width_px, height_px = size_px
    sampling = SamplingSettings(width_px=width_px, height_px=height_px, eta=0.0, shared_noise=False)
    base_model, start = base
    settings = SessionSettings(base_model=base_model, start=start, sampling=sampling, live=False)
    session = store.create_session(name, settings)
    prompts: dict[str, None] = {}
    taken = left_out = 0
    remarks: list[str] = []
    try:
        told(session, taken)
        for number, one in enumerate(given, start=1):
            prompt = one.prompt.strip()
            sides = [_picture(content, size_px) for content in (one.left, one.right)]
            problem = one.problem
            if not problem and None in sides:
                problem = "a picture of it cannot be read, or is no PNG, JPEG or WebP"
            if not problem and not 0 < len(prompt) <= MAX_PROMPT_CHARACTERS:
                problem = f"its prompt is empty, or longer than {MAX_PROMPT_CHARACTERS} characters"
            if problem:
                left_out += 1
                remarks.append(f"{one.name or f'Row {number}'} was left out: {problem}.")
                continue
            if one.remark:
                remarks.append(f"{one.remark}.")
            prompts[prompt] = None
            left, right = (
                _keep(store, session, denoiser, prompt, 2 * taken + place, side)
                for place, side in enumerate(sides)
            )
            pair = store.add_pair(session.id, prompt, left, right, None)
            better = {"much_better": one.much_better, "reason": one.reason}
            store.add_pick(uuid.uuid4().hex, pair.id, one.choice, **better)
            taken += 1
            told(session, taken)
        if not taken:
            raise ExchangeError(
                "None of these picks can be used: each needs a prompt of at most "
                f"{MAX_PROMPT_CHARACTERS} characters and two pictures (PNG, JPEG or WebP)."
            )
    except BaseException:
        store.delete_session(session.id)  # half of them is not what was asked for
        raise
    settings = replace(settings, prompts=tuple(prompts)[:MOST_PROMPTS])
    return TakenIn(store.update_settings(session.id, settings), taken, left_out, tuple(remarks))


def _keep(
    store: Store,
    session: Session,
    denoiser: Denoiser,
    prompt: str,
    seed: int,
    picture: PIL.Image.Image,
) -> Image:
    """The files of a picture from elsewhere; gives the row for the caller to add."""
    sampling = session.settings.sampling
    image = Image(
        id=store.new_image_id(),
        session_id=session.id,
        purpose="pair",
        prompt=prompt,
        seed=seed,
        adapter_id=None,
        strength=1.0,
        sampling=sampling,
        base_hash=denoiser.base_hash,
        created_at_s=time.time(),
        beside=denoiser.companions([prompt, sampling.negative_prompt]),
    )
    timesteps = denoiser.schedule(sampling.steps).timesteps.cpu()
    [final] = denoiser.encode([picture]).cpu()
    chain = torch.zeros(len(timesteps) + 1, *final.shape)
    chain[-1] = final  # all that there is of it
    made = Trajectory(chain, timesteps, prompt, seed, sampling, denoiser.base_hash)
    master, display = store.image_path(image), store.display_path(image)
    where = store.trajectory_path(image)
    write_atomically(master, lambda path: picture.save(path, "PNG"))
    if display != master:
        write_atomically(display, lambda path: picture.save(path, "JPEG", quality=92))
    write_atomically(where, lambda path: trajectory.save(path, made))
    return replace(image, picture_sha256=sha256(master), trajectory_sha256=sha256(where))


def _picture(content: bytes, size_px: tuple[int, int]) -> PIL.Image.Image | None:
    """In the size, cut at the middle; None for what is no picture."""
    try:
        with PIL.Image.open(io.BytesIO(content), formats=PICTURE_KINDS) as picture:
            upright = picture_files.rgb(PIL.ImageOps.exif_transpose(picture))
            return PIL.ImageOps.fit(upright, size_px, PIL.Image.Resampling.LANCZOS)
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        PIL.Image.DecompressionBombError,
        PIL.Image.DecompressionBombWarning,
    ):
        return None
