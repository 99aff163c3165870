"""Exam: is the tuned model really preferred? Base against tuned, blind, with the interval."""

from __future__ import annotations

import re
import secrets
from typing import Any

import gradio as gr

from studio.prompting.alternatives import expand
from studio.settings import MAX_PROMPT_CHARACTERS, SessionSettings, SettingsError
from studio.statistics import Tally, exam_sentence, recommended_strength, tallies
from studio.store.rows import Exam, Session
from studio.ui import words
from studio.ui.images import image_url
from studio.ui.page import Look, Page, Values
from studio.ui.starter_pack import starter_concepts
from studio.ui.static import script, template
from studio.ui.tabs.compare import choices
from studio.ui.tabs.prefer import answered

PAIRS = 20  # enough to tell a clear preference from chance, in two minutes
MOST_PAIRS = 100
PAIRS_SENT = 4  # the pairs the browser knows of and decodes


def build(page: Page) -> None:
    """What to examine on the left, the exam and its results on the right."""
    store = page.store
    with gr.Row(elem_classes="compare-columns exam-columns", equal_height=False):
        with gr.Column(scale=1, min_width=280, elem_classes="compare-form"):
            adapter = gr.Dropdown(
                label="Tuned by", choices=[], elem_id="exam-adapter", interactive=True
            )
            strength = gr.Slider(
                0.05,
                2.0,
                value=1.0,
                step=0.05,
                label="Strength",
                info="Examine several to find the one that you like best.",
                elem_id="exam-strength",
            )
            count = gr.Number(
                label="Pairs",
                value=PAIRS,
                precision=0,
                info="More pairs make a surer result.",
                elem_id="exam-count",
            )
            prompts = gr.Textbox(
                label="Prompts of your own",
                info="One on each line. Left empty, things that it has never practised are taken.",
                lines=4,
                max_lines=10,
                elem_id="exam-prompts",
            )
            begin = gr.Button("Begin the exam", variant="primary", elem_id="exam-begin")
        with gr.Column(scale=4, min_width=320):
            component = gr.HTML(
                value=None,
                html_template=template("exam/exam.html"),
                js_on_load=script("exam/exam.js"),
                server_functions=_server_functions(page),
                apply_default_css=False,
                elem_id="exam",
            )

    def view(look: Look) -> Values:
        return {
            component: state(look),
            adapter: gr.update(choices=choices(look), value=look.session.current_adapter_id),
            begin: gr.update(interactive=bool(look.adapters)),
        }

    page.shows(view, [component, adapter, begin])

    def make(
        session: Session, adapter_id: str | None, at: float, pairs: float | None, text: str
    ) -> None:
        if not adapter_id:
            raise SettingsError("There is nothing to examine yet: let a round learn first.")
        trained = store.trained_prompts(adapter_id)
        wanted = questions(exam_prompts(text, session.settings, trained), pairs)
        asked = [(expand(prompt, seed, store.wildcards_path), seed) for prompt, seed in wanted]
        refuse_practised([prompt for prompt, _ in asked], trained)
        store.add_exam(session.id, adapter_id, round(at, 2), asked)

    page.hears(begin.click, make, inputs=[adapter, strength, count, prompts])


def _server_functions(page: Page) -> list[Any]:
    store = page.store

    def answer(payload: dict[str, Any]) -> dict[str, Any]:
        id_ = payload["answer_id"]
        store.answer_exam(id_, payload["pair_id"], payload["choice"])
        return {"replaced": store.exam_answer_before(id_), "state": state(Look(store))}

    def look(payload: dict[str, Any]) -> dict[str, Any]:
        """How the exam stands now, other windows included; it changes nothing."""
        return {"state": state(Look(store))}

    def take_back(payload: dict[str, Any]) -> dict[str, Any]:
        store.take_back_answer(payload["undo_id"], payload["exam_id"])
        return {"state": state(Look(store))}

    def leave(payload: dict[str, Any]) -> dict[str, Any]:
        store.leave_exam(payload["exam_id"])
        return {"state": state(Look(store))}

    def draw(payload: dict[str, Any]) -> dict[str, Any]:
        store.draw_exam(payload["exam_id"])
        return {"state": state(Look(store))}

    return [answered(call, page) for call in (answer, look, take_back, leave, draw)]


# --- what is asked -------------------------------------------------------------------------------


def exam_prompts(text: str, settings: SessionSettings, trained: frozenset[str]) -> list[str]:
    """The artist's own prompts, or things from the box; none of them was ever trained on."""
    own = list(dict.fromkeys(" ".join(line.split()) for line in text.splitlines() if line.strip()))
    if any(len(prompt) > MAX_PROMPT_CHARACTERS for prompt in own):
        raise SettingsError(f"A prompt is longer than {MAX_PROMPT_CHARACTERS} characters.")
    refuse_practised(own, trained)
    if own:
        return own
    named = " · ".join(map(_plain, (*trained, *settings.prompts, *settings.preview_prompts)))
    fresh = [
        thing
        for thing in starter_concepts()
        if not re.search(rf"\b{re.escape(_plain(thing))}\b", named)
    ]
    if not fresh:
        raise SettingsError("All that is in the box was practised: write prompts of your own.")
    return secrets.SystemRandom().sample(fresh, len(fresh))


def _plain(prompt: str) -> str:
    """A prompt without what makes no other picture of it: case, spaces, a first article."""
    return re.sub(r"^(a|an|the) ", "", " ".join(prompt.casefold().split())).rstrip(". ")


def refuse_practised(prompts: list[str], trained: frozenset[str]) -> None:
    """Raises SettingsError if one of them was trained on."""
    practised = {_plain(prompt) for prompt in trained}
    known = [prompt for prompt in prompts if _plain(prompt) in practised]
    if known:
        raise SettingsError(
            f"“{known[0]}” was practised, and an exam asks for what was not. "
            "Take it out, or write something else."
        )


def questions(prompts: list[str], pairs: float | None) -> list[tuple[str, int]]:
    """So many (prompt, seed): the prompts in turn, each time with a seed never seen before."""
    if pairs is None or not 1 <= pairs <= MOST_PAIRS:
        raise SettingsError(f"An exam has between 1 and {MOST_PAIRS} pairs.")
    return [(prompts[n % len(prompts)], secrets.randbits(31)) for n in range(int(pairs))]


# --- what is shown -------------------------------------------------------------------------------


def state(look: Look) -> dict[str, Any]:
    """The exam that is open, without a word about which is which; else what the exams found."""
    exams = look.store.exams(look.session.id)
    taking = next((exam for exam in exams if exam.is_open), None)
    finished = [exam for exam in exams if exam.is_finished]
    return {
        "exam": taking and _taking(look, taking),
        "result": _result(look, finished) if finished else None,
        "rows": _rows(look, finished),
        "empty": None if finished else _empty(look),
    }


def _taking(look: Look, exam: Exam) -> dict[str, Any]:
    to_come = [pair for pair in exam.pairs if pair.is_drawn and pair.choice is None]
    drawn = sum(pair.is_drawn for pair in exam.pairs)
    jobs = look.store.jobs(look.session.id, kind="exam")
    job = next((job for job in jobs if job.payload.get("exam_id") == exam.id), None)
    is_drawing = job is not None and job.state in ("queued", "running")
    problem = ""
    if drawn < len(exam.pairs) and not is_drawing:
        problem = job.message if job is not None else "The painter has stopped."
    return {
        "id": exam.id,
        "total": len(exam.pairs),
        "answered": exam.answered,
        "width_px": exam.sampling.width_px,
        "height_px": exam.sampling.height_px,
        "pairs": [
            {
                "id": pair.id,
                "prompt": pair.prompt,
                "left": image_url(pair.sides[0] or ""),
                "right": image_url(pair.sides[1] or ""),
            }
            for pair in to_come[:PAIRS_SENT]
        ],
        "drawing": f"{drawn} of {words.count(len(exam.pairs), 'pair')} drawn.",
        "problem": problem,
    }


def _result(look: Look, finished: list[Exam]) -> dict[str, Any]:
    newest = finished[0]
    tally = Tally(newest.tuned_wins, newest.base_wins, newest.ties)
    number = _round_number(look, newest.adapter_id)
    return {
        "what": f"Round {number} at strength {newest.strength:g}, against the base model",
        "sentence": exam_sentence(tally),
        "meaning": _meaning(tally, best_strength(look, newest.adapter_id)),
        "pairs": [
            {
                "prompt": pair.prompt,
                "left": image_url(pair.sides[0] or ""),
                "right": image_url(pair.sides[1] or ""),
                "tuned": pair.tuned_side,
                "choice": pair.choice,
            }
            for pair in newest.pairs
        ],
    }


def _meaning(tally: Tally, best: float | None) -> str:
    """What the interval allows one to say, and what to do next."""
    low, high = tally.interval
    if low > 0.5:
        said = "You prefer the tuned model, and chance does not explain it."
    elif high < 0.5:
        said = "You prefer the base model: a lower strength or an earlier round may do better."
    else:
        said = "That is not more than chance explains: more pairs, or another strength, may tell."
    if best is not None:
        said += f" Strength {best:g} is recommended, and offered for the export."
    return said


def _rows(look: Look, finished: list[Exam]) -> list[dict[str, Any]]:
    rows = []
    for adapter in reversed(look.adapters):
        found = tallies(exam for exam in finished if exam.adapter_id == adapter.id)
        best = recommended_strength(found)
        for strength, tally in found.items():
            low, high = tally.interval
            rows.append(
                {
                    "round": adapter.number,
                    "strength": f"{strength:g}",
                    "counted": str(tally),
                    "ties": tally.ties,
                    "share": tally.tuned / tally.decided if tally.decided else None,
                    "low": low,
                    "high": high,
                    "recommended": strength == best,
                }
            )
    return rows


def best_strength(look: Look, adapter_id: str | None) -> float | None:
    """The strength that the exams of an adapter recommend, if any."""
    if adapter_id is None:
        return None
    return recommended_strength(tallies(look.store.exams(look.session.id, adapter_id)))


def _round_number(look: Look, adapter_id: str) -> int | str:
    return next((a.number for a in look.adapters if a.id == adapter_id), "?")


def _empty(look: Look) -> dict[str, str]:
    if not look.adapters:
        return {
            "title": "Nothing is tuned yet",
            "text": "When the first round is done, you find out here whether you really prefer it.",
            "action": "Pick pictures",
            "tab": "prefer",
        }
    return {
        "title": "Is it really better?",
        "text": "You see pairs, one drawn by the base model and one by the tuned one, and choose "
        "without knowing which is which. At the end you learn how often you chose the tuned one.",
    }
