"""Preview pictures: the shown prompts, drawn by the base model and after every round."""

from __future__ import annotations

from studio.messages import _
from studio.store import Store, StoreError
from studio.store.rows import Image
from studio.ui.snapshot import StoreSnapshot

MAX_PREVIEWS = 1000  # read of a session, the newest ones

Previews = dict[tuple[str | None, str], Image]  # by adapter id, None for the base, and prompt


def newest_previews(store: Store, session_id: str) -> Previews:
    """The picture that was drawn last for each adapter and prompt."""
    newest: Previews = {}
    for image in store.images(session_id, "preview", limit=MAX_PREVIEWS):
        newest.setdefault((image.adapter_id, image.prompt), image)
    return newest


def current_previews(snapshot: StoreSnapshot) -> Previews:
    """The picture that the model draws now for each adapter and prompt.

    That is the newest one, unless a setting was changed and changed back: then the newest preview
    job has found the older picture again, and it counts.
    """
    current = newest_previews(snapshot.store, snapshot.session.id)
    job = snapshot.newest_job("preview")
    for image_id in job.result.get("image_ids", ()) if job else ():
        try:
            image = snapshot.store.image(image_id)
        except StoreError:  # set aside or damaged
            continue
        key = (image.adapter_id, image.prompt)
        if key not in current or current[key].created_at_s < job.created_at_s:
            current[key] = image
    return current


def previews_by_round(store: Store, session_id: str) -> list[tuple[str, list[Image | None]]]:
    """Each round's name and its pictures of the shown prompts, the base first.

    None stands for a picture that is not drawn yet.
    """
    prompts = store.session(session_id).settings.shown_prompts
    newest = newest_previews(store, session_id)
    adapters = sorted(store.adapters(session_id), key=lambda adapter: adapter.number)
    rounds = [
        (None, _("Base model")),
        *((a.id, _("Round {number}", number=a.number)) for a in adapters),
    ]
    return [(name, [newest.get((id_, prompt)) for prompt in prompts]) for id_, name in rounds]
