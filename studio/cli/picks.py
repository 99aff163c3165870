"""`picks`: export picks for other programs, or import theirs."""

from __future__ import annotations

import argparse

from studio import datasets, models
from studio.cli.errors import progress, say
from studio.cli.home import find_session, open_store
from studio.store import Store


def picks(arguments: argparse.Namespace) -> int:
    """Export or import picks in other programs' formats: see `studio.datasets`."""
    with open_store(arguments) as store:
        if arguments.action == "export":
            session = find_session(store, arguments.session)
            out, picked = arguments.out.absolute(), store.picked_pairs(session.id)
            done, left_out = datasets.write(out, arguments.form, picked, store.image_path)
            say(f"{done} picks are in {arguments.out}.")
            why = "whose pictures are missing, or whose answer has no place there"
        else:
            done, left_out = _import(arguments, store)
            why = "which cannot be used"
    if left_out:
        say(f"Left out: {left_out}, {why}.", to_errors=True)
    return 0


def _import(arguments: argparse.Namespace, store: Store) -> tuple[int, int]:
    path = arguments.path.absolute()
    given = datasets.read(path)  # a quick refusal, before a model is loaded
    native_px = models.inspect(arguments.model).size_px
    denoiser = models.load(arguments.model, arguments.device)
    taken = datasets.import_picks(
        store,
        denoiser,
        (arguments.model, None),
        arguments.name or path.stem,
        given,
        arguments.size or (native_px, native_px),
        lambda _, done: progress(f"{done} picks"),
    )
    progress(f"{taken.session.id}  {taken.session.name}: {taken.picks} picks", last=True)
    say(
        "Diffusion-DPO can learn from them. D3PO cannot, because their denoising steps are unknown."
    )
    for remark in taken.remarks:
        say(remark, to_errors=True)
    return taken.picks, taken.left_out
