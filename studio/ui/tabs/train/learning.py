"""How a round learns: the objective, how far it goes, and the size of the LoRA."""

from __future__ import annotations

import math
from dataclasses import replace
from html import escape

import gradio as gr

from studio.messages import N_, _
from studio.settings import FEWEST_LONE, OBJECTIVES, SessionSettings, TrainingSettings
from studio.ui import words
from studio.ui.fields import Field, save_fields, training_field
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.train import other_tastes

# Each objective's name and one sentence about it, for the artist.
OBJECTIVE_WORDS = {
    "diffusion_dpo": (
        N_("From the finished pictures"),
        N_(
            "Learns from what sets the picture you chose apart from the other one (Diffusion-DPO). "
            "Of the ways here it learns the most from tens of picks."
        ),
    ),
    "d3po_balanced": (
        N_("From the steps of the drawing"),
        N_(
            "Learns from how the two pictures were drawn, step by step, every step weighed alike "
            "(D3PO). A step is much chance and little taste, so it takes many more picks."
        ),
    ),
    "d3po": (
        N_("D3PO, as published"),
        N_(
            "The settings of the paper, for comparison: they were made for thousands of picks and "
            "hardly move with tens."
        ),
    ),
}

# Settings that stay whatever the objective.
KEPT = (
    "rank",
    "alpha",
    "count_strength",
    "lone_pictures",
    "keep_to_prompt",
    "orders",
    "beside",
    "beside_share",
    "from_tastes",
)

ORDERS = {
    "pairs": N_("Pair by pair"),
    "rank": N_("More between first and last"),
    "list": N_("As one choice after another"),
}
PAIRS_BY = {"base": N_("The base model"), "newest": N_("The newest LoRA")}

# The strength dial. It sets how far a round moves the pictures, as a multiple of the default; for
# objectives without a target shift it sets beta, the pull back to the base model.
DIAL = (N_("Very gentle"), N_("Gentle"), N_("Balanced"), N_("Strong"), N_("Very strong"))
SHIFTS = dict(zip(DIAL, (0.4, 0.7, 1.0, 1.4, 2.0), strict=True))
BETAS = dict(zip(DIAL, (10.0, 3.0, 1.0, 0.3, 0.1), strict=True))
BALANCED_BETA_WITH_ADAMW = 60.0  # of sessions that were begun when AdamW was the default


def build(page: Page) -> None:
    """A field for every setting of the training that an artist may want to change."""
    objective = gr.Radio(
        [(OBJECTIVE_WORDS[name][0], name) for name in OBJECTIVES],
        label=_("Way of learning"),
        elem_id="objective",
    )
    about = gr.HTML(apply_default_css=False, elem_classes="under-field")
    strength = gr.Radio(
        list(SHIFTS),
        label=_("How far a round goes"),
        info=_(
            "Gentle keeps the pictures as the base model draws them; strong goes further and may "
            "spoil them."
        ),
        elem_id="strength",
    )
    pairs_by = gr.Radio(
        [(name, value) for value, name in PAIRS_BY.items()],
        label=_("Pairs are drawn by"),
        info=_(
            "A pick between two pictures of the base model says the most. The newest LoRA's show "
            "how far it has come, and more of what the base model rarely draws."
        ),
        elem_id="pairs-by",
    )
    sure = gr.Checkbox(
        label=_("Count how sure I was"),
        info=_("“Much better” pulls twice as hard as “better”. A tie teaches nothing, as before."),
        elem_id="count-strength",
    )
    lone = gr.Checkbox(
        label=_("Learn from favourites and from “Neither” too"),
        info=_(
            "The star on a picture says that it is good by itself, “Neither” that two are bad. "
            "All good ones together weigh as much as all bad ones."
        ),
        elem_id="lone-pictures",
    )
    about_lone = gr.HTML(apply_default_css=False, elem_id="about-lone", elem_classes="under-field")
    keep = gr.Checkbox(
        label=_("Keep to the prompt"),
        info=_(
            "Each picture that you chose is also held against words that it does not fit, so that "
            "a taste for blue leaves red where your prompt says red. It needs no picks of its own; "
            "a round takes about half as long again."
        ),
        elem_id="keep-to-prompt",
    )
    with gr.Column(visible=False) as for_grids:
        orders = gr.Radio(
            [(_(name), value) for value, name in ORDERS.items()],
            label=_("An order of several pictures counts"),
            info=_(
                "“More between first and last” gives the ends of an order more weight than its "
                "neighbours; “As one choice after another” takes it as a whole."
            ),
            elem_id="orders",
        )
    other_tastes.build(page)
    with gr.Row():
        rank = gr.Number(
            label=_("LoRA rank"),
            info=_("Room for the taste: 8 is plenty."),
            precision=0,
            elem_classes="autosave narrow",
        )
        alpha = gr.Number(
            label=_("LoRA alpha"),
            info=_("Its volume: best equal to the rank."),
            elem_classes="autosave narrow",
        )

    def view(snapshot: StoreSnapshot) -> Values:
        sentence = OBJECTIVE_WORDS[snapshot.settings.training.objective][1]
        return {
            about: _soft(_(sentence)),
            about_lone: _soft(lone_sentence(snapshot)),
            for_grids: gr.update(visible=snapshot.settings.pictures > 2),
        }

    page.show(view, [about, about_lone, for_grids])
    save_fields(
        page,
        [
            Field(objective, lambda s: s.training.objective, with_objective),
            Field(strength, lambda s: strength_of(s.training), with_strength),
            Field(pairs_by, lambda s: s.pairs_by, lambda s, value: replace(s, pairs_by=value)),
            training_field(sure, "count_strength", bool),
            training_field(lone, "lone_pictures", bool),
            training_field(keep, "keep_to_prompt", float),
            training_field(orders, "orders", str),
            training_field(rank, "rank", int),
            training_field(alpha, "alpha", float),
        ],
    )


def lone_sentence(snapshot: StoreSnapshot) -> str:
    """How many favourites and bad pictures the next round learns from; "" if it is to use none."""
    if not snapshot.settings.training.lone_pictures:
        return ""
    good, bad = words.good_and_bad(len(snapshot.lone.favourites), len(snapshot.lone.bad))
    if snapshot.lone.are_enough:
        return _("The next round learns from {good} and {bad} too.", good=good, bad=bad)
    return _(
        "It takes {fewest} favourites and {fewest} bad pictures; so far there "
        "are {good} and {bad}. Until then a round learns from your other picks alone.",
        fewest=FEWEST_LONE,
        good=good,
        bad=bad,
    )


def _soft(sentence: str) -> str:
    return f"<p class='soft'>{escape(sentence)}</p>" if sentence else ""


def with_objective(settings: SessionSettings, objective: str) -> SessionSettings:
    """Another objective, with all its settings but those of `KEPT`."""
    kept = {name: getattr(settings.training, name) for name in KEPT}
    return replace(settings, training=replace(OBJECTIVES[objective], **kept))


def strength_of(training: TrainingSettings) -> str:
    """The nearest name on the dial."""
    if training.target_shift is None:
        dial, ratio = BETAS, training.beta / _balanced_beta(training)
    else:
        dial, ratio = SHIFTS, training.target_shift / TrainingSettings().target_shift
    return min(dial, key=lambda name: abs(math.log(ratio / dial[name])))


def with_strength(settings: SessionSettings, name: str) -> SessionSettings:
    """The target shift that the dial names, or the beta where there is no target shift."""
    training = settings.training
    if training.target_shift is None:
        training = replace(training, beta=_balanced_beta(training) * BETAS[name])
    else:
        shift = TrainingSettings().target_shift * SHIFTS[name]
        training = replace(training, target_shift=shift)
    return replace(settings, training=training)


def can_be_gentler(settings: SessionSettings) -> bool:
    """Whether the dial has a gentler name."""
    return strength_of(settings.training) != next(iter(SHIFTS))


def more_gently(settings: SessionSettings) -> SessionSettings:
    """One name gentler on the dial, if there is one."""
    names = list(SHIFTS)
    index = names.index(strength_of(settings.training))
    return with_strength(settings, names[max(0, index - 1)])


def _balanced_beta(training: TrainingSettings) -> float:
    """The beta in the middle of the dial."""
    preset = OBJECTIVES[training.objective]
    if training.loss == "diffusion_dpo" and training.optimizer != preset.optimizer:
        return BALANCED_BETA_WITH_ADAMW
    return preset.beta
