"""Best of many: one prompt at many seeds, those first that come closest to what was learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from studio.engine import ranking
from studio.store import Session, Store
from studio.worker.renderer import Renderer


def draw_best_first(
    renderer: Renderer,
    store: Store,
    session: Session,
    payload: dict[str, Any],
    report: Callable[[int, dict[str, Any]], None],
) -> dict[str, Any]:
    """{"prompts": [one], "seeds", "adapter_id", "strength"} → {"image_ids"}, the best first.

    report: called with the number of pictures drawn and the result so far, first with 0. What it
    raises leaves the pictures so far in their order.
    """
    [prompt], adapter_id = payload["prompts"], payload["adapter_id"]
    strength = payload.get("strength", 1.0)
    renderer.require_base(session, store.adapter(adapter_id))
    rewards: dict[str, float] = {}
    result: dict[str, Any] = {"image_ids": []}
    report(0, result)
    for done, seed in enumerate(payload["seeds"], start=1):
        text = renderer.expand(prompt, seed)
        wanted = renderer.image(session, "compare", text, seed, adapter_id, strength)
        with renderer.using(adapter_id, strength) as denoiser:
            picture, chain = renderer.drawing(wanted)
            [tuned] = ranking.scores(denoiser, [chain])
        with renderer.using(None) as denoiser:
            [base] = ranking.scores(denoiser, [chain])
        image = renderer.drawn_before(wanted) or store.add_image(renderer.write(wanted, picture))
        rewards[image.id] = float(tuned - base)
        result = {"image_ids": sorted(rewards, key=rewards.__getitem__, reverse=True)}
        report(done, result)
    return result
