"""The studio's writing operations, one at a time, with the real code.

An operation is a generator over a home: it yields each acknowledgement at its moment.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image as Pictures
from safetensors.torch import load_file, save_file

from studio.engine import trajectory
from studio.engine.trajectory import Trajectory
from studio.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE, sha256
from studio.lora.export import export_lora
from studio.lora.metadata import ExportInfo
from studio.settings import SamplingSettings, SessionSettings
from studio.store import (
    Adapter,
    Export,
    Image,
    Session,
    Store,
    examine_files,
    export_session,
    import_session,
    take_snapshot,
    write_atomically,
)
from studio.store.files import write_sealed

ROOT = Path(__file__).resolve().parents[3]
OLD_STORE = ROOT / "assets" / "golden" / "store-0002.sqlite.gz"
ARCHIVE = "session.zip"
SAMPLING = SamplingSettings(steps=4)
LAYER = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@dataclass
class Home:
    """A store, copies of which are damaged, and its contents."""

    path: Path
    session_id: str
    things: set[str] = field(default_factory=set)
    files: list[str] = field(default_factory=list)  # checksums
    checkpoints: list[bytes] = field(default_factory=list)  # valid contents
    missing: list[str] = field(default_factory=list)  # files that are missing from the start


def make_homes(folder: Path) -> dict[str, Home]:
    """ "new", written by this version, and "old", from before the last migration."""
    torch.set_num_threads(1)  # other threads would not survive a fork
    new = folder / "new"
    with contextlib.closing(Store.open(new)) as store:
        session = store.create_session("Blue things", SessionSettings(prompts=("a cat", "a dog")))
        store.set_last_session(session.id)
        for number in range(10):
            pair_id = _draw_pair(store, session, number)
            if number < 8:
                store.add_pick(f"pick{number}", pair_id, "left" if number % 3 else "right")
        adapter = _learn(store, session)
        _export(store, session, adapter)
        store.request_round(session.id)
        _checkpoint(store, session, 0)
        take_snapshot(new)
        export_session(store, session.id, folder / ARCHIVE)
    old = folder / "old"
    old.mkdir()
    (old / "studio.sqlite").write_bytes(gzip.decompress(OLD_STORE.read_bytes()))
    with contextlib.closing(Store.open(shutil.copytree(old, folder / "migrated"))) as migrated:
        old_id = migrated.last_session_id()
        old_things = things(migrated, old_id)
        old_missing = examine_files(migrated).missing
    with contextlib.closing(Store.open(new)) as store:
        return {
            "new": Home(
                new,
                session.id,
                things(store, session.id),
                [sha256(path) for path in files_of(new)],
                [_checkpoint_bytes(number) for number in range(200)],
            ),
            "old": Home(old, old_id, old_things, missing=old_missing),
        }


def _session(store: Store) -> Session:
    return store.sessions()[0]


def _draw_pair(store: Store, session: Session, number: int) -> str:
    """Like `PairQueue.add_pair`, with pictures of noise."""
    dice = random.Random(number)
    sides = []
    for _ in range(2):
        image = Image(
            id=store.new_image_id(),
            session_id=session.id,
            purpose="pair",
            prompt=session.settings.prompts[number % 2],
            seed=dice.getrandbits(31),
            adapter_id=None,
            strength=1.0,
            sampling=SAMPLING,
            base_hash="base",
            created_at_s=time.time(),
        )
        picture = Pictures.frombytes("RGB", (32, 32), dice.randbytes(32 * 32 * 3))
        chain = Trajectory(
            torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(image.seed)),
            torch.tensor([800, 600, 400, 200]),
            image.prompt,
            image.seed,
            SAMPLING,
            "base",
        )
        master, latents = store.image_path(image), store.trajectory_path(image)
        write_atomically(master, lambda path, picture=picture: picture.save(path, "PNG"))
        write_atomically(latents, lambda path, chain=chain: trajectory.save(path, chain))
        sums = {"picture_sha256": sha256(master), "trajectory_sha256": sha256(latents)}
        sides.append(replace(image, **sums))
    return store.add_pair(session.id, sides[0].prompt, *sides, None).id


def _learn(store: Store, session: Session) -> Adapter:
    """Like `Rounds._finish` of the worker, with weights of noise."""
    round_ = store.request_round(session.id)
    store.claim_round()
    store.add_metric(round_.id, 1, {"loss": 0.69})
    adapter = Adapter(
        id=uuid.uuid4().hex,
        session_id=session.id,
        round_id=round_.id,
        number=round_.number,
        settings=round_.settings,
        base_hash="base",
        picks=8,
        sha256="",
        created_at_s=time.time(),
    )
    folder = store.adapter_path(adapter)

    def write(path: Path) -> None:
        path.mkdir()
        rank, draw = round_.settings.rank, torch.Generator().manual_seed(round_.number)
        down, up = torch.randn(rank, 64, generator=draw), torch.randn(64, rank, generator=draw)
        state = {f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up}
        save_file(state, path / ADAPTER_FILE)
        (path / ADAPTER_CONFIG_FILE).write_text('{"r": 8}', "utf-8")

    write_atomically(folder, write)
    adapter = replace(
        adapter,
        sha256=sha256(folder / ADAPTER_FILE),
        config_sha256=sha256(folder / ADAPTER_CONFIG_FILE),
    )
    store.finish_round(round_.id, adapter)
    return adapter


def _export(store: Store, session: Session, adapter: Adapter) -> str:
    """Like `Jobs._do_export` of the worker."""
    row = Export(uuid.uuid4().hex, session.id, adapter.id, "Blue", (), {}, time.time())
    report = export_lora(
        store.export_path(session.id, row.id),
        row.name,
        load_file(store.adapter_path(adapter) / ADAPTER_FILE),
        adapter.settings.rank,
        adapter.settings.alpha,
        ExportInfo("sd1", "the starter", adapter.picks, adapter.created_at_s),
    )
    names = tuple(path.name for path in report.files)
    return store.add_export(replace(row, files=names, checks=report.checks)).id


def _checkpoint_bytes(number: int) -> bytes:
    state = io.BytesIO()
    torch.save({"update": number, "adapter": torch.full((2000,), float(number))}, state)
    return state.getvalue()


def _checkpoint(store: Store, session: Session, number: int) -> None:
    """Like `Rounds._save` of the worker."""
    path = store.checkpoint_path(store.rounds(session.id)[-1])
    write_sealed(path, _checkpoint_bytes(number))


# --- the operations ------------------------------------------------------------------------------


def pick(home: Path) -> Iterator[str]:
    with contextlib.closing(Store.open(home)) as store:
        pair = store.waiting_pairs(_session(store).id)[0]
        yield f"pick new {store.add_pick('new', pair.id, 'right').choice}"


def undo(home: Path) -> Iterator[str]:
    """An undo is acknowledged as a pair that waits again."""
    with contextlib.closing(Store.open(home)) as store:
        session = _session(store)
        yield f"pair {store.undo_pick('undo', session.id).id}"
        pair = store.waiting_pairs(session.id)[0]
        yield f"pick again {store.add_pick('again', pair.id, 'tie').choice}"


def rollout(home: Path) -> Iterator[str]:
    with contextlib.closing(Store.open(home)) as store:
        yield f"pair {_draw_pair(store, _session(store), 99)}"


def checkpoint(home: Path) -> Iterator[str]:
    with contextlib.closing(Store.open(home)) as store:
        _checkpoint(store, _session(store), 1)
    return
    yield


def learn(home: Path) -> Iterator[str]:
    with contextlib.closing(Store.open(home)) as store:
        yield f"adapter {_learn(store, _session(store)).id}"


def export(home: Path) -> Iterator[str]:
    with contextlib.closing(Store.open(home)) as store:
        session = _session(store)
        yield f"export {_export(store, session, store.adapters(session.id)[0])}"


def migrate(home: Path) -> Iterator[str]:
    with contextlib.closing(Store.open(home)) as store:
        yield f"session {_session(store).id}"


def delete(home: Path) -> Iterator[str]:
    with contextlib.closing(Store.open(home)) as store:
        session = _session(store)
        store.delete_session(session.id)
        yield f"deleted {session.id}"


def archive(home: Path) -> Iterator[str]:
    with contextlib.closing(Store.open(home)) as store:
        export_session(store, _session(store).id, home.parent / "session.zip")
    return
    yield


def take_in(home: Path) -> Iterator[str]:
    """Import the archive beside the homes."""
    with contextlib.closing(Store.open(home)) as store:
        yield f"session {import_session(store, home.parent.parent / ARCHIVE).id}"


def snapshot(home: Path) -> Iterator[str]:
    take_snapshot(home, "another")
    return
    yield


def script(home: Path) -> Iterator[str]:
    """An hour's work without pauses, repeated until the process is killed."""
    with contextlib.closing(Store.open(home)) as store:
        session = _session(store)
        for number in range(1000):
            yield f"pair {_draw_pair(store, session, number)}"
            for pair in store.waiting_pairs(session.id)[:1]:
                pick = store.add_pick(uuid.uuid4().hex, pair.id, "left")
                yield f"pick {pick.id} {pick.choice}"
            _checkpoint(store, session, number % 200)
            if number % 5 == 4:
                yield f"adapter {_learn(store, session).id}"
                yield f"export {_export(store, session, store.adapters(session.id)[-1])}"
                store.request_round(session.id)


OPERATIONS: dict[str, Callable[[Path], Iterator[str]]] = {
    "a pick": pick,
    "an undo": undo,
    "a pair": rollout,
    "a checkpoint": checkpoint,
    "an adapter": learn,
    "an export": export,
    "a migration": migrate,
    "deleting a session": delete,
    "an archive of a session": archive,
    "an import": take_in,
    "a snapshot": snapshot,
    "a scripted hour": script,
}
SHORT = tuple(name for name in OPERATIONS if name != "a scripted hour")


def home_for(operation: str, homes: dict[str, Home]) -> Home:
    home = homes["old" if operation == "a migration" else "new"]
    # Data that the operation removes may be there or not until the acknowledgement.
    removed = {"an undo": "pick pick7 ", "deleting a session": "session "}.get(operation)
    if removed is None:
        return home
    return replace(home, things={thing for thing in home.things if not thing.startswith(removed)})


# --- contents of a store -------------------------------------------------------------------------


def things(store: Store, session_id: str) -> set[str]:
    """Everything in the store that can have been acknowledged, each as a short text."""
    names = {f"session {session.id}" for session in store.sessions()}
    if f"session {session_id}" not in names:
        names.add(f"deleted {session_id}")
    picked = store.picked_pairs(session_id)
    names |= {f"pick {row.pick.id} {row.pick.choice}" for row in picked}
    names |= {f"pair {row.pair.id}" for row in picked}
    names |= {f"pair {pair.id}" for pair in store.waiting_pairs(session_id, 10_000)}
    names |= {f"adapter {adapter.id}" for adapter in store.adapters(session_id)}
    names |= {f"export {row.id}" for row in store.exports(session_id)}
    return names


def files_of(home: Path) -> list[Path]:
    """Pictures, latents, adapters and exports, also those that were set aside."""
    return [
        path
        for folder in ("sessions", "aside")
        for path in (home / folder).rglob("*")
        if path.is_file() and path.suffix in (".png", ".safetensors", ".json")
    ]
