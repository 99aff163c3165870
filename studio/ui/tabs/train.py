"""Train: start a round, watch the taste arrive, and choose which round is used."""

from __future__ import annotations

import math
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from studio.settings import FEWEST_PICKS, OBJECTIVES, SessionSettings, TrainingSettings
from studio.statistics import leans, wilson
from studio.store import StoreError
from studio.store.rows import Adapter, Consistency, Image, Metric, Round, Session
from studio.ui import curves, words
from studio.ui.fields import Field, saves
from studio.ui.images import image_url
from studio.ui.page import Look, Page, Values

FEWEST_FOR_SIDES = 12  # picks before anything is said about left and right

# What each way of learning is called, and does, in one sentence.
OBJECTIVE_WORDS = {
    "diffusion_dpo": (
        "From the finished pictures",
        "Learns from what sets the picture you chose apart from the other one (Diffusion-DPO). Of "
        "the ways here it learns the most from tens of picks.",
    ),
    "d3po_balanced": (
        "From the steps of the drawing",
        "Learns from how the two pictures were drawn, step by step, every step weighed alike "
        "(D3PO). A step is much chance and little taste, so it takes many more picks.",
    ),
    "d3po": (
        "D3PO, as published",
        "The settings of the paper, for comparison: they were made for thousands of picks and "
        "hardly move with tens.",
    ),
}

PAIRS_BY = {"base": "The base model", "newest": "The newest LoRA"}

# The dial from gentle to strong is how far a round takes the pictures, in parts of the middle; or,
# for ways of learning without a reach, beta: the pull back to the base model.
REACHES = {"Very gentle": 0.4, "Gentle": 0.7, "Balanced": 1.0, "Strong": 1.4, "Very strong": 2.0}
BETAS = {"Very gentle": 10.0, "Gentle": 3.0, "Balanced": 1.0, "Strong": 0.3, "Very strong": 0.1}
BALANCED_WITH_ADAMW = 60.0  # beta of sessions that were begun when that was the default


def build(page: Page) -> None:
    """The round that runs, its curves, the strip of rounds, and how it learns."""
    with gr.Row(elem_classes="train-top", equal_height=False):
        with gr.Column(scale=3, min_width=320):
            _round_card(page)
        with gr.Column(scale=2, min_width=280, elem_classes="card"):
            _automatic(page)
    _strip(page)
    _evidence(page)
    _charts(page)
    with gr.Accordion("How it learns", open=False, elem_id="how-it-learns"):
        _learning(page)


# --- the round -----------------------------------------------------------------------------------


def _round_card(page: Page) -> None:
    card = gr.HTML(apply_default_css=False, elem_id="round-card")
    with gr.Row(elem_classes="buttons"):
        gentler = gr.Button("Learn again, more gently", variant="primary", elem_id="round-gentler")
        start = gr.Button("Start a round", variant="primary", elem_id="round-start")
        pause = gr.Button("Pause", elem_id="round-pause")
        resume = gr.Button("Go on", variant="primary", elem_id="round-resume")
        stop = gr.Button("Stop", variant="stop", elem_id="round-stop")

    def view(look: Look) -> Values:
        round_ = look.open_round
        state = round_.state if round_ else ""
        held_back = bool(look.rounds) and look.rounds[-1].state == "held_back"
        offers_gentler = held_back and can_be_gentler(look.settings)
        return {
            card: round_card(look),
            gentler: gr.update(visible=offers_gentler),
            start: gr.update(
                visible=not round_,
                interactive=look.counts.usable >= FEWEST_PICKS,
                variant="secondary" if offers_gentler else "primary",
            ),
            pause: gr.update(visible=state in ("queued", "running")),
            resume: gr.update(visible=state == "paused"),
            stop: gr.update(visible=bool(state), interactive=state != "stopping"),
        }

    page.shows(view, [card, start, pause, resume, stop, gentler])
    store = page.store

    def begin(session: Session) -> None:
        store.request_round(session.id)

    def begin_gentler(session: Session) -> str:
        gentler = store.change_settings(session.id, more_gently)
        store.request_round(session.id)
        return f"It learns again, set to “{strength_of(gentler.settings.training)}”."

    def on_open_round(act: Any) -> Any:
        def handler(session: Session) -> None:
            round_ = Look(store).open_round
            if round_ is not None and round_.session_id == session.id:
                act(round_.id)

        return handler

    page.hears(start.click, begin)
    page.hears(gentler.click, begin_gentler, refill=True)
    page.hears(pause.click, on_open_round(store.pause_round))
    page.hears(resume.click, on_open_round(store.resume_round))
    page.hears(stop.click, on_open_round(store.stop_round))


def round_card(look: Look) -> str:
    """What is going on, in a heading, a bar and a sentence."""
    round_ = look.open_round
    if round_ is None:
        title, text = _no_round(look)
        if look.rounds and look.rounds[-1].state == "done":
            text += look.rounds[-1].message.removeprefix("Done.")
        return _card(title, text)
    picks = words.count(len(round_.train_pick_ids), "pick")
    share = words.share_done(round_)
    match round_.state:
        case "running":
            title = f"Round {round_.number} is learning from {picks}"
            left_s = words.seconds_left(round_, look.metrics)
            left = f"{words.duration(left_s)} left" if left_s is not None else "getting ready"
            text = f"{words.per_cent(share)} · {left}. Go on picking meanwhile."
            if round_.message:
                text += f" {round_.message}"
        case "paused":
            title = f"Round {round_.number} is paused at {words.per_cent(share)}"
            text = "It goes on from here whenever you like, after a restart too."
        case "stopping":
            title = f"Round {round_.number} is stopping"
            text = "It finishes the step it is at."
        case _:
            title = f"Round {round_.number} is about to begin"
            text = f"It learns from {picks}, as soon as the painter is free."
    return _card(title, text, share, f"Round {round_.number}")


def _no_round(look: Look) -> tuple[str, str]:
    counts, last = look.counts, look.rounds[-1] if look.rounds else None
    if last is not None and last.state == "failed":
        return f"Round {last.number} could not be finished", last.message
    if last is not None and last.state == "held_back":
        return f"Round {last.number} went too far", last.message
    missing = FEWEST_PICKS - counts.usable
    if missing > 0:
        more = f"{missing} more" if counts.usable else "a few"
        return (
            "Pick first, then it learns",
            f"A round needs {FEWEST_PICKS} picks or more: choose {more} on the Prefer tab. "
            "With 16 the taste begins to show.",
        )
    if look.withdrawn:
        picks = words.count(look.withdrawn, "pick")
        return (
            f"You took back {picks} that it learned from",
            "Start a round, and it learns again without them. No round is lost by that.",
        )
    fresh = words.count(counts.new, "new pick")
    if last is not None and last.state == "stopped":
        return f"Round {last.number} was stopped", f"Nothing was changed. {fresh} wait for a round."
    if look.current_adapter is None and not look.adapters:
        return "Ready for the first round", f"{words.count(counts.usable, 'pick')} to learn from."
    if not counts.new:
        return "Everything you picked is learned", "Pick more, and the next round goes further."
    return f"{fresh} since the last round", "A round learns from all your picks, old and new."


def _card(title: str, text: str, share: float | None = None, label: str = "") -> str:
    bar = ""
    if share is not None:
        done = round(100 * share)
        bar = (
            f"<div class='bar big' role='progressbar' aria-label='{label}' aria-valuemin='0' "
            f"aria-valuemax='100' aria-valuenow='{done}'><i style='inline-size:{done}%'></i></div>"
        )
    return f"<h2>{escape(title)}</h2>{bar}<p>{escape(text)}</p>"


def _automatic(page: Page) -> None:
    live = gr.Checkbox(
        label="Learn by itself while I pick",
        info="A round starts whenever there are enough new picks. You go on picking.",
        elem_id="live",
    )
    every = gr.Number(
        label="New picks for a round",
        info="16 is a good number: fewer teach little, more take patience.",
        precision=0,
        elem_id="round-every",
        elem_classes="autosave narrow",
    )
    saves(
        page,
        [
            Field(live, lambda s: s.live, lambda s, value: replace(s, live=bool(value))),
            Field(every, lambda s: s.round_every, lambda s, n: replace(s, round_every=int(n))),
        ],
    )


# --- evidence ------------------------------------------------------------------------------------


def _evidence(page: Page) -> None:
    panel = gr.HTML(apply_default_css=False, elem_id="evidence")
    page.shows(lambda look: {panel: evidence(look)}, [panel])


def evidence(look: Look) -> str:
    """What is known of the lesson and of the picking, in sentences with their intervals."""
    lines = [*agreement_lines(look.agreement), *consistency_lines(look.consistency)]
    if not lines:
        return ""
    items = "".join(
        f"<li><b>{escape(title)}</b><span>{escape(text)}</span></li>" for title, text in lines
    )
    return f"<h2 class='section'>What is known so far</h2><ul class='evidence'>{items}</ul>"


def agreement_lines(agreement: tuple[int, int] | None) -> list[tuple[str, str]]:
    """Of the newest round: how often it would have chosen as the artist did, unseen."""
    if agreement is None:
        return []
    right, asked = agreement
    low, high = wilson(right, asked)
    verdict = (
        "That is more than chance."
        if low > 0.5
        else "That may still be chance: more picks will tell."
    )
    return [
        (
            f"It agrees with {right} of {words.count(asked, 'pick')} that it has never seen",
            f"One pick in five is kept out of the lessons to ask this. With so few, the truth lies "
            f"between {words.per_cent(low)} and {words.per_cent(high)}. {verdict}",
        )
    ]


def consistency_lines(consistency: Consistency) -> list[tuple[str, str]]:
    """How sure the artist is, and whether a side is favoured."""
    lines = []
    if consistency.repeated:
        lines.append(
            (
                f"You chose the same again in {consistency.agreed} of "
                f"{words.count(consistency.repeated, 'pair')} shown twice",
                "Now and then a pair comes back with its sides swapped. Where you choose "
                "otherwise, the two were close; no painter can agree with you more often than "
                "you do.",
            )
        )
    if consistency.picked >= FEWEST_FOR_SIDES:
        left, side = (
            consistency.left,
            "left" if 2 * consistency.left >= consistency.picked else "right",
        )
        share = words.per_cent(max(left, consistency.picked - left) / consistency.picked)
        lines.append(
            (
                f"You chose the {side} picture in {share} of {consistency.picked} picks",
                f"More often than chance would: do you look at the {side} one first?"
                if leans(left, consistency.picked)
                else "The sides are drawn by lot, so about half is right: you do not favour one.",
            )
        )
    return lines


# --- curves --------------------------------------------------------------------------------------


def _charts(page: Page) -> None:
    charts = gr.HTML(apply_default_css=False, elem_id="charts")
    with gr.Accordion("The loss, and other details", open=False, elem_id="loss"):
        loss = gr.HTML(apply_default_css=False)

    def view(look: Look) -> Values:
        round_ = look.rounds[-1] if look.rounds else None
        if round_ is None or not look.metrics:
            return {charts: "", loss: "<p class='soft'>Curves appear with the first round.</p>"}
        return {charts: round_charts(round_, look.metrics), loss: loss_chart(round_, look.metrics)}

    page.shows(view, [charts, loss])


def series(metrics: list[Metric], key: str) -> list[tuple[float, float]]:
    """(update, value) wherever it was measured."""
    return [(m.update, m.values[key]) for m in metrics if key in m.values]


def smoothed(points: list[tuple[float, float]], span: int = 5) -> list[tuple[float, float]]:
    """The mean over the last few: single batches jump, and the jumps mean nothing."""
    values = [y for _, y in points]
    means = [
        sum(values[max(0, i - span + 1) : i + 1]) / min(i + 1, span) for i in range(len(values))
    ]
    return [(x, mean) for (x, _), mean in zip(points, means, strict=True)]


def round_charts(round_: Round, metrics: list[Metric]) -> str:
    """The three curves that mean something."""
    x_max = float(round_.updates_total or 1)
    held = len(round_.held_out_pick_ids)
    kept_out = f"{words.count(held, 'pick')} kept out of the lesson" if held else "picks kept out"
    charts = (
        curves.share_chart(
            "Agrees with you",
            series(metrics, "held_out_agreement"),
            f"Asked about {kept_out}: how often it would now choose as you did. "
            "50 % is a coin toss.",
            x_max,
        ),
        curves.share_chart(
            "Knows your picks",
            smoothed(series(metrics, "accuracy")),
            "Of the picks it learns from, how many it gets right. Near 100 % it has learned them "
            "by heart.",
            x_max,
        ),
        curves.value_chart(
            "Leaning",
            smoothed(series(metrics, "margin")),
            "How far it leans towards what you chose and away from what you passed over. "
            "It should rise, and level off.",
            x_max,
        ),
    )
    title = f"<h2 class='section'>Round {round_.number}, as it learned</h2>"
    return f"{title}<div class='charts'>{''.join(charts)}</div>"


def loss_chart(round_: Round, metrics: list[Metric]) -> str:
    """For those who want it: it says little about pictures."""
    chart = curves.value_chart(
        "Loss",
        series(metrics, "loss"),
        "The number that training lowers. With preferences it hardly moves and says little about "
        "the pictures: look at the strip instead.",
        float(round_.updates_total or 1),
        digits=3,
    )
    grad = curves.value_chart(
        "Size of the steps",
        series(metrics, "grad_norm"),
        "How hard each lesson pulls. Steady is good; growing without end is not.",
        float(round_.updates_total or 1),
    )
    return f"<div class='charts'>{chart}{grad}</div>"


# --- the strip of rounds -------------------------------------------------------------------------


def _strip(page: Page) -> None:
    strip = gr.HTML(
        apply_default_css=False,
        elem_id="strip",
        js_on_load="""
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-use]");
  if (button) trigger("use", { adapter_id: button.dataset.use });
});""",
    )
    page.shows(lambda look: {strip: strip_of_rounds(look)}, [strip])

    def use(session: Session, event: gr.EventData) -> str:
        adapter_id = event._data.get("adapter_id") or None
        page.store.set_current_adapter(session.id, adapter_id)
        if adapter_id is None:
            return "The base model is in use again. Every round is kept."
        number = page.store.adapter(adapter_id).number
        draws = ": new pairs are drawn with it" if session.settings.pairs_by == "newest" else ""
        return f"Round {number} is in use{draws}."

    page.hears(strip.use, use, with_event=True)


def strip_of_rounds(look: Look) -> str:
    """A row a round, the base first: the same prompts, the same seeds, so that one sees it move."""
    pictures = previews(look)
    prompts = look.settings.shown_prompts
    if not prompts:
        return ""
    rows = [_row(look, None, None, pictures, prompts)]
    by_id = {adapter.id: adapter for adapter in look.adapters}
    for round_ in look.rounds:
        rows.append(_row(look, round_, by_id.get(round_.adapter_id or ""), pictures, prompts))
    head = "".join(f"<span title='{escape(p, quote=True)}'>{escape(p)}</span>" for p in prompts)
    return (
        "<h2 class='section'>The taste arriving</h2>"
        "<p class='soft'>The same prompts and the same seeds after every round. "
        "Any round can be used again; none is ever lost.</p>"
        f"<div class='strip' style='--columns:{len(prompts)}'>"
        f"<div class='strip-head' aria-hidden='true'><span></span>{head}</div>{''.join(rows)}</div>"
    )


def previews(look: Look) -> dict[tuple[str | None, str], Image]:
    """The newest preview picture by adapter and prompt, or the one that was found again since.

    After a change that is taken back, what was drawn before it is what the model draws now.
    """
    found: dict[tuple[str | None, str], Image] = {}
    for image in look.store.images(look.session.id, "preview", limit=1000):
        found.setdefault((image.adapter_id, image.prompt), image)
    job = look.newest_job("preview")
    for image_id in job.result.get("image_ids", ()) if job else ():
        try:
            image = look.store.image(image_id)
        except StoreError:  # it was set aside, or is damaged
            continue
        key = (image.adapter_id, image.prompt)
        if key not in found or found[key].created_at_s < job.created_at_s:
            found[key] = image
    return found


def _row(
    look: Look,
    round_: Round | None,
    adapter: Adapter | None,
    pictures: dict[tuple[str | None, str], Image],
    prompts: tuple[str, ...],
) -> str:
    adapter_id = adapter.id if adapter else None
    has_pictures = round_ is None or adapter is not None
    is_current = has_pictures and look.session.current_adapter_id == adapter_id
    name = f"Round {round_.number}" if round_ else "Base model"
    if has_pictures:
        cells = "".join(
            _cell(pictures.get((adapter_id, prompt)), prompt, name) for prompt in prompts
        )
    else:
        cells = f"<p class='strip-note'>{escape(_unfinished(round_))}</p>"
    if is_current:
        action = "<span class='badge'>In use</span>"
    elif has_pictures:
        action = (
            f"<button type='button' class='button small' data-use='{adapter_id or ''}' "
            f"aria-label='Use {name}'>Use this</button>"
        )
    else:
        action = ""
    about = words.count(adapter.picks, "pick") if adapter else "" if round_ else "before any picks"
    if round_ is not None and round_.state == "held_back":
        about += ", held back"
    return (
        f"<div class='strip-row' {'data-current' if is_current else ''}>"
        f"<div class='strip-name'><b>{name}</b><small>{about}</small>{action}</div>{cells}</div>"
    )


def _cell(image: Image | None, prompt: str, name: str) -> str:
    if image is None:
        return "<span class='picture none' role='img' aria-label='Not drawn yet'></span>"
    alt = escape(f"{name}: {prompt}", quote=True)
    return f"<img class='picture' src='{image_url(image.id)}' alt='{alt}' loading='lazy'>"


def _unfinished(round_: Round | None) -> str:
    if round_ is None:
        return ""
    match round_.state:
        case "failed":
            return f"Could not be finished: {round_.message}"
        case "stopped":
            return "Stopped before it was done."
        case "paused":
            return "Paused."
        case _:
            return "Its pictures appear here when it is done."


# --- how it learns -------------------------------------------------------------------------------


def _learning(page: Page) -> None:
    objective = gr.Radio(
        [(OBJECTIVE_WORDS[name][0], name) for name in OBJECTIVES],
        label="Way of learning",
        elem_id="objective",
    )
    about = gr.HTML(apply_default_css=False, elem_classes="under-field")
    strength = gr.Radio(
        list(REACHES),
        label="How far a round goes",
        info="Gentle keeps the pictures as the base model draws them; strong goes further and may "
        "spoil them.",
        elem_id="strength",
    )
    pairs_by = gr.Radio(
        [(name, value) for value, name in PAIRS_BY.items()],
        label="Pairs are drawn by",
        info="A pick between two pictures of the base model says the most. The newest LoRA's show "
        "how far it has come, and more of what the base model rarely draws.",
        elem_id="pairs-by",
    )
    with gr.Row():
        rank = gr.Number(
            label="LoRA rank",
            info="Room for the taste: 8 is plenty.",
            precision=0,
            elem_classes="autosave narrow",
        )
        alpha = gr.Number(
            label="LoRA alpha",
            info="Its volume: best equal to the rank.",
            elem_classes="autosave narrow",
        )
    page.shows(
        lambda look: {
            about: "<p class='soft'>"
            f"{escape(OBJECTIVE_WORDS[look.settings.training.objective][1])}</p>"
        },
        [about],
    )
    saves(
        page,
        [
            Field(objective, lambda s: s.training.objective, with_objective),
            Field(strength, lambda s: strength_of(s.training), with_strength),
            Field(pairs_by, lambda s: s.pairs_by, lambda s, value: replace(s, pairs_by=value)),
            Field(rank, lambda s: s.training.rank, _training(rank=int)),
            Field(alpha, lambda s: s.training.alpha, _training(alpha=float)),
        ],
    )


def with_objective(settings: SessionSettings, objective: str) -> SessionSettings:
    """Another way of learning, with its own temperature; rank and alpha stay."""
    was = settings.training
    training = replace(OBJECTIVES[objective], rank=was.rank, alpha=was.alpha)
    return replace(settings, training=training)


def _balanced_beta(training: TrainingSettings) -> float:
    """The beta in the middle of the dial."""
    preset = OBJECTIVES[training.objective]
    if training.loss == "diffusion_dpo" and training.optimizer != preset.optimizer:
        return BALANCED_WITH_ADAMW
    return preset.beta


def strength_of(training: TrainingSettings) -> str:
    """The name on the dial that is nearest."""
    if training.target_shift is None:
        dial, ratio = BETAS, training.beta / _balanced_beta(training)
    else:
        dial, ratio = REACHES, training.target_shift / TrainingSettings().target_shift
    return min(dial, key=lambda name: abs(math.log(ratio / dial[name])))


def with_strength(settings: SessionSettings, name: str) -> SessionSettings:
    """Reach, or else beta, from the dial."""
    training = settings.training
    if training.target_shift is None:
        training = replace(training, beta=_balanced_beta(training) * BETAS[name])
    else:
        training = replace(training, target_shift=TrainingSettings().target_shift * REACHES[name])
    return replace(settings, training=training)


def can_be_gentler(settings: SessionSettings) -> bool:
    """Whether the dial has a gentler place."""
    return strength_of(settings.training) != next(iter(REACHES))


def more_gently(settings: SessionSettings) -> SessionSettings:
    """The dial one place gentler."""
    names = list(REACHES)
    return with_strength(settings, names[max(0, names.index(strength_of(settings.training)) - 1)])


def _training(**kinds: Any) -> Any:
    ((name, kind),) = kinds.items()
    return lambda s, value: replace(s, training=replace(s.training, **{name: kind(value)}))
