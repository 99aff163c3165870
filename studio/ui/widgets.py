"""Small parts that several tabs put into their HTML."""

from __future__ import annotations

from studio.ui.static import script


def click_events(*events: str) -> str:
    """`js_on_load` for a component with buttons such as `<button data-event='use' data-id='7'>`.

    A click on this one triggers the event "use" with {"id": "7"}. Gradio knows an event only if
    its name is written in the script, so all of them are listed here.
    """
    return script("shared/click_events.js", *events)


def progress_bar(share: float, label: str) -> str:
    """`share`: between 0 and 1. `label` names the work for screen readers."""
    percent = round(100 * share)
    return (
        f"<div class='bar big' role='progressbar' aria-label='{label}' aria-valuemin='0' "
        f"aria-valuemax='100' aria-valuenow='{percent}'>"
        f"<i style='inline-size:{percent}%'></i></div>"
    )
