"""Prompt: what to draw, with which model, and how. Every field saves itself."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from studio.paths import typed
from studio.pictures.infotext import Parameters
from studio.prompting import foreign, styles, text_files
from studio.prompting.alternatives import expand
from studio.prompting.styles import Style, styled
from studio.settings import (
    STARTER_SIZE_PX,
    SamplingSettings,
    SessionSettings,
    SettingsError,
    is_hub_id,
)
from studio.store import write_atomically
from studio.store.rows import Image, Job, Session
from studio.ui import library
from studio.ui.dropin import restored, takes_settings
from studio.ui.fields import Field, saves
from studio.ui.images import image_url
from studio.ui.page import Look, Page, Values, request_preview
from studio.ui.sizes import SHAPES_JS, reads_clip_skip, shape_chips
from studio.ui.starter_pack import starter_packs
from studio.ui.tabs import start_lora
from studio.ui.tabs.train import previews

SIZES_PX = (64, 128, 256, 384, 512, 640, 768, 896, 1024)

PACK_JS = """
let open = null; // the theme that stays open when the chips are made anew
element.addEventListener("toggle", ({ target }) => {
  if (target.open) open = target.id;
  else if (open === target.id) open = null;
}, { capture: true });
new MutationObserver(() => {
  const details = open && element.querySelector("#" + open);
  if (details && !details.open) details.open = true;
}).observe(element, { childList: true, subtree: true });
element.addEventListener("click", (event) => {
  const { theme, add } = event.target.closest("[data-theme]")?.dataset ?? {};
  if (theme) trigger("add_prompt", { theme, prompt: add ?? null });
});"""


def build(page: Page) -> None:
    """The prompts and their settings on the left, what they look like on the right."""
    _steps(page)
    with gr.Row(elem_classes="prompt-columns", equal_height=False):
        with gr.Column(scale=5, min_width=320):
            _prompts(page)
            takes_settings(
                page,
                "prompt-drop",
                lambda session, found: _restore(page, session, found),
                refill=True,
            )
            with gr.Accordion("Styles", open=False, elem_id="styles"):
                _styles(page)
            with gr.Accordion("How pictures are made", open=False, elem_id="picture-settings"):
                _sampling(page)
            with gr.Accordion("Model", open=False, elem_id="model"):
                _model(page)
            with gr.Accordion("Start from a LoRA", open=False, elem_id="start-lora"):
                start_lora.build(page, draw_preview)
        with gr.Column(scale=6, min_width=320, elem_classes="sticky"):
            _preview(page)


# --- the first three steps -----------------------------------------------------------------------


def _steps(page: Page) -> None:
    steps = gr.HTML(apply_default_css=False, elem_id="first-steps")

    def view(look: Look) -> Values:
        if look.adapters:
            return {steps: ""}
        done = (bool(look.settings.prompts), look.counts.usable >= look.settings.round_every)
        return {steps: three_steps(*done, picks=look.counts.usable, of=look.settings.round_every)}

    page.shows(view, [steps])


def three_steps(has_prompts: bool, has_picks: bool, picks: int, of: int) -> str:
    """What a first visitor does; it goes away when the first round is learned."""
    now = 1 if not has_prompts else 2 if not has_picks else 3
    so_far = f" {picks} of {of} so far." if picks else ""
    first = "Some are here to begin with. Change them as you like."
    texts = (
        ("Say what to draw", first if has_prompts else "Write it below, a line each.", "", ""),
        ("Pick what you like", f"Two pictures, one key.{so_far}", "prefer", "Start picking"),
        ("See it learn", "After every round the pictures are more to your taste.", "train", "Look"),
    )
    items = "".join(
        f"<li class='{'done' if n < now else 'now' if n == now else ''}'>"
        f"<b>{title}</b><span>{text}</span>"
        + (
            f"<button type='button' class='button {'primary' if n == now else ''} small' "
            f"data-open-tab='{tab}'>{label}</button>"
            if tab and n <= now
            else ""
        )
        + "</li>"
        for n, (title, text, tab, label) in enumerate(texts, start=1)
    )
    return f"<ol class='steps' aria-label='The first three steps'>{items}</ol>"


# --- prompts -------------------------------------------------------------------------------------


def _prompts(page: Page) -> None:
    prompts = gr.Textbox(
        label="Prompts",
        info="One on each line. Pairs are drawn of each in turn; six to twenty work well. "
        "{cat|dog} leaves a choice open.",
        placeholder="a red apple\na {sailboat|rocket}, flat style",
        lines=9,
        max_lines=18,
        elem_id="prompts",
        elem_classes="autosave",
    )
    too_long = gr.HTML(apply_default_css=False, elem_id="too-long", elem_classes="under-field")
    pack = gr.HTML(apply_default_css=False, elem_id="starter-pack", js_on_load=PACK_JS)
    negative = gr.Textbox(
        label="Negative prompt",
        info="What should not be in the picture. Often best left empty.",
        lines=1,
        max_lines=4,
        elem_id="negative-prompt",
        elem_classes="autosave",
    )
    saves(
        page,
        [
            Field(
                prompts,
                lambda s: "\n".join(s.prompts),
                lambda s, text: with_prompts(s, text, page.store.wildcards_path),
            ),
            Field(
                negative,
                lambda s: s.sampling.negative_prompt,
                lambda s, text: _sampled(s, negative_prompt=text.strip()),
            ),
        ],
        after=lambda before, session: draw_preview(page, before, session),
    )
    page.shows(
        lambda look: {pack: pack_chips(look.settings), too_long: unread(look)}, [pack, too_long]
    )

    def add(session: Session, event: gr.EventData) -> Values:
        """One prompt of a theme, or all of them."""
        theme, wanted = event._data.get("theme"), event._data.get("prompt")
        offered = [p for p in starter_packs().get(theme, ()) if wanted in (None, p)]

        def with_offered(now: SessionSettings) -> SessionSettings:
            return replace(now, prompts=tuple(dict.fromkeys((*now.prompts, *offered))))

        saved = page.store.change_settings(session.id, with_offered)
        return {prompts: "\n".join(saved.settings.prompts)}

    page.hears(pack.add_prompt, add, outputs=[prompts], with_event=True)


def with_prompts(settings: SessionSettings, text: str, lists: Path) -> SessionSettings:
    """One prompt a line; the same line twice is one prompt. `lists`: of alternatives, as files."""
    lines = tuple(dict.fromkeys(" ".join(line.split()) for line in text.splitlines()))
    prompts = tuple(line for line in lines if line)
    if not prompts:
        raise SettingsError(
            "There is no prompt: write what the pictures should show, one on each line."
            + (" Until then the ones from before are used." if settings.prompts else "")
        )
    settings = replace(settings, prompts=prompts)  # says when they are too many or too long
    for prompt in prompts:
        expand(prompt, 0, lists)  # says what is wrong with one that cannot be read
    return settings


def unread(look: Look) -> str:
    """What of the prompts is not drawn as it is meant: signs of other programs, and what the model
    has no room for, as the worker found when it last looked."""
    job = look.newest_job("preview")
    ends = job.result.get("unread", {}) if job is not None else {}
    written = (*look.settings.prompts, look.settings.sampling.negative_prompt)
    plain = "".join(f"<p class='soft'>{escape(one)}</p>" for one in foreign.remarks(written))
    lines = "".join(
        f"<li>“{escape(prompt[:40])}…”: “{escape(ends[prompt])}” is left out</li>"
        for prompt in written
        if prompt in ends
    )
    if not lines:
        return plain
    longer = "<p class='soft'>Longer than this model reads:</p>"
    return f"{plain}{longer}<ul class='soft'>{lines}</ul>"


def pack_chips(settings: SessionSettings) -> str:
    """What the starter model draws well, by theme: one click each, or all of a theme at once."""
    if settings.base_model != "starter":
        return ""
    themes = ""
    for number, (theme, prompts) in enumerate(starter_packs().items()):
        offered = [prompt for prompt in prompts if prompt not in settings.prompts]
        chips = "".join(_chip(theme, prompt, escape(prompt)) for prompt in offered)
        if len(offered) > 1:
            chips += _chip(theme, None, f"all {len(offered)}")
        if chips:
            themes += (
                f"<details class='theme' id='theme-{number}'><summary>{theme}</summary>"
                f"<div class='chips'>{chips}</div></details>"
            )
    if not themes:
        return ""
    return f"<p class='soft'>What the starter model draws well:</p>{themes}"


def _chip(theme: str, prompt: str | None, label: str) -> str:
    wanted = "" if prompt is None else f" data-add='{escape(prompt, quote=True)}'"
    return f"<button type='button' class='chip' data-theme='{theme}'{wanted}>{label}</button>"


# --- styles --------------------------------------------------------------------------------------


def _styles(page: Page) -> None:
    path = page.store.styles_path
    chosen = gr.Dropdown([], label="Style", info="Words that you keep.", elem_id="style")
    with gr.Row():
        use = gr.Button("Add to all prompts", elem_id="use-style", size="sm", min_width=120)
        forget = gr.Button("Delete", elem_id="delete-style", size="sm", min_width=120)
    new_name = gr.Textbox(label="New style", info="Its name.", elem_id="style-name")
    new_words = gr.Textbox(
        label="Words",
        info="They come after the prompt, or around it: {prompt} is its place.",
        placeholder="flat style, on a blue background",
        elem_id="style-words",
    )
    keep = gr.Button("Keep this style", elem_id="keep-style", size="sm")
    gr.HTML(
        "<p class='soft'>The negative prompt above is kept with it. Your styles are in "
        f"<code>{escape(str(path))}</code>, in the form of A1111’s: put your own there.</p>",
        apply_default_css=False,
        elem_classes="under-field",
    )

    def kept() -> dict[str, Style]:
        try:
            return styles.parse(text_files.read(path).text) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path} cannot be read: {error}.") from error

    def write(now: dict[str, Style]) -> None:
        write_atomically(path, lambda to: to.write_text(styles.written(now.values()), "utf-8"))

    def known(wanted: str | None) -> Style:
        found = kept().get(wanted or "")
        if found is None:
            raise SettingsError("Choose a style first, or keep one under a name.")
        return found

    def on_use(session: Session, wanted: str | None) -> str:
        before = session.settings
        style = known(wanted)
        saved = page.store.change_settings(session.id, lambda now: with_style(now, style))
        draw_preview(page, before, saved)
        return f"The prompts have the words of “{wanted}”."

    def on_keep(session: Session, name: str, words: str) -> tuple[Values, str]:
        negative = session.settings.sampling.negative_prompt
        made = Style(" ".join(name.split()), " ".join(words.split()), negative)
        if not made.name or not (made.prompt or negative):
            raise SettingsError("A style needs a name, and words to keep.")
        now = kept()
        write(now | {made.name: made})
        said = "is now what you wrote" if made.name in now else "is kept"
        choices = gr.update(choices=sorted(now.keys() | {made.name}), value=made.name)
        return {chosen: choices, new_name: "", new_words: ""}, f"“{made.name}” {said}."

    def on_forget(session: Session, wanted: str | None) -> tuple[Values, str]:
        gone = known(wanted)
        now = {n: style for n, style in kept().items() if n != gone.name}
        write(now)
        return {chosen: gr.update(choices=sorted(now), value=None)}, f"“{gone.name}” is deleted."

    page.hears(use.click, on_use, inputs=[chosen], outputs=[], refill=True)
    page.hears(
        keep.click, on_keep, inputs=[new_name, new_words], outputs=[chosen, new_name, new_words]
    )
    page.hears(forget.click, on_forget, inputs=[chosen], outputs=[chosen])
    # A file that cannot be read is said when it is used.
    page.fills(
        lambda look: {chosen: gr.update(choices=sorted(page.tries(kept)[0] or {}))}, [chosen]
    )


def with_style(settings: SessionSettings, style: Style) -> SessionSettings:
    """The settings with a style's words in every prompt that has not got them."""
    if not settings.prompts and style.prompt:
        raise SettingsError("There is no prompt to add the words to: write one first.")
    prompts = tuple(dict.fromkeys(styled(one, style.prompt) for one in settings.prompts))
    negative = settings.sampling.negative_prompt
    words = style.negative_prompt
    if words and words not in negative:
        negative = f"{negative}, {words}" if negative else words
    return _sampled(replace(settings, prompts=prompts), negative_prompt=negative)


# --- how pictures are made -----------------------------------------------------------------------


def _sampling(page: Page) -> None:
    def number(label: str, info: str, elem_id: str, **options: Any) -> gr.Number:
        return gr.Number(
            label=label,
            info=info,
            elem_id=elem_id,
            elem_classes="autosave",
            min_width=120,
            **options,
        )

    with gr.Row(elem_classes="numbers"):
        steps = number("Steps", "More is finer and slower.", "steps", precision=0)
        guidance = number(
            "Guidance", "How closely it follows the prompt; 1 for Turbo and LCM.", "guidance"
        )
        seed = number("Seed", "Another number, other pictures.", "seed", precision=0)
    fitting = gr.HTML(apply_default_css=False, elem_id="shapes", js_on_load=SHAPES_JS)
    with gr.Row(elem_classes="numbers"):
        width = gr.Dropdown(
            SIZES_PX, label="Width", info="In pixels.", allow_custom_value=True, min_width=120
        )
        height = gr.Dropdown(
            SIZES_PX, label="Height", info="In pixels.", allow_custom_value=True, min_width=120
        )
        ready = number("Pairs kept ready", "Drawn ahead.", "queue-target", precision=0)
    with gr.Column(elem_id="clip-skip-place") as clip_skip_place:
        clip_skip = number(
            "Clip skip",
            "As in other tools: 1 reads all of the text encoder, 2 leaves out its last layer.",
            "clip-skip",
            precision=0,
        )
    shared = gr.Checkbox(
        label="Both pictures of a pair start from the same noise",
        info="They then differ in detail rather than in everything, which teaches more.",
        elem_id="shared-noise",
    )
    note = gr.HTML(apply_default_css=False, elem_classes="under-field")
    saves(
        page,
        [
            Field(steps, lambda s: s.sampling.steps, lambda s, n: _sampled(s, steps=int(n))),
            Field(
                guidance, lambda s: s.sampling.guidance, lambda s, x: _sampled(s, guidance=float(x))
            ),
            Field(seed, lambda s: s.sampling.seed, lambda s, n: _sampled(s, seed=int(n))),
            Field(width, lambda s: s.sampling.width_px, lambda s, n: _sampled(s, width_px=_px(n))),
            Field(
                height, lambda s: s.sampling.height_px, lambda s, n: _sampled(s, height_px=_px(n))
            ),
            Field(ready, lambda s: s.queue_target, lambda s, n: replace(s, queue_target=int(n))),
            Field(
                clip_skip,
                lambda s: s.sampling.clip_skip,
                lambda s, n: _sampled(s, clip_skip=int(n)),
            ),
            Field(
                shared,
                lambda s: s.sampling.shared_noise,
                lambda s, on: _sampled(s, shared_noise=bool(on)),
            ),
        ],
        after=lambda before, session: draw_preview(page, before, session),
    )

    def view(look: Look) -> Values:
        settings = look.settings
        return {
            fitting: shape_chips(settings.base_model, look.model, settings.sampling),
            clip_skip_place: gr.update(visible=reads_clip_skip(look.model)),
            note: note_of(settings.sampling, bool(look.counts.usable)),
        }

    page.shows(view, [fitting, clip_skip_place, note])

    def choose(session: Session, event: gr.EventData) -> None:
        width_px, _, height_px = str(event._data.get("shape")).partition("x")
        size = {"width_px": _px(width_px), "height_px": _px(height_px)}
        saved = page.store.change_settings(session.id, lambda now: _sampled(now, **size))
        draw_preview(page, session.settings, saved)

    page.hears(fitting.choose, choose, with_event=True, refill=True)


def note_of(sampling: SamplingSettings, has_picks: bool) -> str:
    """What to know of the settings as they are."""
    notes = []
    if has_picks:
        notes.append(
            "Picks on pictures made in different ways cannot be learned together: after a change "
            "here, a round learns from the new pictures alone."
        )
    if sampling.guidance <= 1 and sampling.negative_prompt:
        notes.append("The negative prompt is read with guidance above 1 alone.")
    if sampling.steps == 1 and sampling.shared_noise:
        notes.append("With a single step, both pictures of a pair start from noise of their own.")
    return "".join(f"<p class='soft'>{one}</p>" for one in notes)


def _sampled(settings: SessionSettings, **changes: Any) -> SessionSettings:
    return replace(settings, sampling=replace(settings.sampling, **changes))


def _restore(page: Page, session: Session, found: Parameters) -> str:
    before = session.settings
    model = page.store.known_model(before.base_model)
    lists = page.store.wildcards_path
    _, said = restored(before, found, lists, model)
    saved = page.store.change_settings(
        session.id, lambda now: restored(now, found, lists, model)[0]
    )
    draw_preview(page, before, saved)
    return said


def _px(value: Any) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise SettingsError("A size is a whole number of pixels, such as 512.") from error


# --- the base model ------------------------------------------------------------------------------


def _model(page: Page) -> None:
    card = gr.HTML(apply_default_css=False, elem_id="model-card", js_on_load=MODEL_JS)
    shelf = gr.HTML(apply_default_css=False, elem_id="library", js_on_load=MODEL_JS)
    path = gr.Textbox(
        label="Another model",
        info="The path of a .safetensors checkpoint or a diffusers folder, or its name on the "
        "Hugging Face hub, owner/name (Stable Diffusion 1, 2 or XL).",
        placeholder="/home/me/models/my-model.safetensors",
        lines=1,
        elem_id="model-path",
    )
    check = gr.Button("Look at this model", elem_id="model-check")
    found = gr.HTML(apply_default_css=False, elem_id="model-found", js_on_load=MODEL_JS)
    folder = gr.Textbox(
        label="A folder of models",
        info="Of A1111, Forge, ComfyUI or InvokeAI, the cache of the hub, or any: all models in it "
        "are shown here, and stay where they are.",
        placeholder=str(library.HUB_CACHE),
        lines=1,
        elem_id="model-folder",
    )
    add = gr.Button("Show its models", elem_id="model-folder-add")
    sources = gr.HTML(apply_default_css=False, elem_id="model-sources", js_on_load=MODEL_JS)
    store = page.store

    def view(look: Look) -> Values:
        return {
            card: model_card(look),
            found: inspected(look),
            shelf: library.shelf(look),
            sources: library.sources(look, store.model_folders()),
        }

    page.shows(view, [card, shelf, found, sources])
    page.fills(lambda look: {path: "", folder: ""}, [path, folder])

    def add_folder(session: Session, text: str) -> Values:
        try:
            store.set_model_folders(library.added(store.model_folders(), text))
        except ValueError as error:
            raise SettingsError(str(error)) from error
        store.add_job(session.id, "library", {})
        return {folder: ""}

    for listener in (add.click, folder.submit):
        page.hears(listener, add_folder, inputs=[folder], outputs=[folder])

    def inspect(session: Session, text: str) -> None:
        if not typed(text):
            raise SettingsError("Write the path or the name of a model first.")
        store.add_job(session.id, "inspect", {"path": typed(text)})

    def take(session: Session, base_model: str, size_px: int) -> None:
        store.change_settings(session.id, lambda now: using_model(now, base_model, size_px))

    def use(session: Session, event: gr.EventData) -> str | None:
        """What a button says to do with a model: take the one that was looked at, at the size it
        was made for, or the starter again; have one of the hub's downloaded, or leave that."""
        act, name = (str(event._data.get(key) or "") for key in ("act", "name"))
        look = Look(store)
        asked = newest_asked(look)
        if act == "starter":
            take(session, "starter", STARTER_SIZE_PX)
            return "The starter model is in use again."
        if act == "download" and asked is not None:
            store.add_job(session.id, "download", {"repo": asked_for(asked)})
            return None
        if act == "stop" and asked is not None:
            store.cancel_job(asked.id)
            return None
        if act == "look":
            store.add_job(session.id, "library", {})
            return None
        if act == "forget":
            store.set_model_folders([one for one in store.model_folders() if one != name])
            store.remember_models([], gone=library.inside(name, store.known_models()))
            return None
        if act == "move":
            store.move_model_of(session.id, name)
            return "The session goes on with the same model from there."
        if act == "anew":
            store.take_changed_model(session.id)
            return "The session goes on with the changed file."
        if act == "library":
            known = store.known_model(name)
            if known is None or not known.family:
                raise SettingsError("This model is not known any more: look again.")
            take(session, name, known.size_px)
            return f"{known.name} is in use now. The first pairs take a while: it is loaded first."
        if asked is None or asked.state != "done":
            return "Look at the model first."
        size_px = int(asked.result["size_px"])
        base_model = asked.result.get("base_model", asked_for(asked))
        take(session, base_model, size_px)
        return "This model is in use now. The first pairs take a while: it is loaded first."

    for listener in (check.click, path.submit):
        page.hears(listener, inspect, inputs=[path])
    for component in (card, shelf, found, sources):
        page.hears(component.use, use, with_event=True, refill=True)


MODEL_JS = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-model]");
  if (button) trigger("use", { act: button.dataset.model, name: button.dataset.name });
});"""


def using_model(settings: SessionSettings, base_model: str, size_px: int) -> SessionSettings:
    """Another base model, at its own size, and read as it was made to be; a LoRA to start from was
    for the one before."""
    sampling = replace(settings.sampling, width_px=size_px, height_px=size_px, clip_skip=1)
    return replace(
        settings,
        base_model=base_model,
        model_hash="",
        model_bytes=0,
        start=None,
        sampling=sampling,
    )


def model_card(look: Look) -> str:
    """Which model draws."""
    base_model = look.settings.base_model
    if base_model == "starter":
        return (
            "<p><b>Starter model</b> is in use. It is in the box, small, quick on any machine, and "
            "draws emoji-like pictures: made to learn how this studio works.</p>"
        )
    warn = (
        "<p class='soft'>What was learned with another model stays with that model.</p>"
        if look.adapters
        else ""
    )
    known = look.model
    about = ""
    if known is not None and known.family:
        hashed = f" · {known.base_hash[:10]}" if known.base_hash else ""
        about = f"{known.words} · {library.gigabytes(known.bytes)}{hashed}"
    return (
        f"<p>In use: <code>{escape(base_model)}</code></p>"
        + (f"<p class='soft'>{escape(about)}</p>" if about else "")
        + f"{library.trouble(look)}{warn}"
        "<button type='button' class='button' data-model='starter'>Back to the starter model"
        "</button>"
    )


def newest_asked(look: Look) -> Job | None:
    """What was asked about a model last: to look at it, or to download it."""
    jobs = [job for kind in ("inspect", "download") if (job := look.newest_job(kind)) is not None]
    return max(jobs, key=lambda job: job.created_at_s, default=None)


def asked_for(job: Job) -> str:
    """The path or the name of the model."""
    return str(job.payload.get("path") or job.payload.get("repo"))


def inspected(look: Look) -> str:
    """What looking at a model found, or how far its download is."""
    job = newest_asked(look)
    if job is None:
        return ""
    if job.state == "done" and look.settings.base_model in (
        asked_for(job),
        job.result.get("base_model"),
    ):
        return ""
    name = f"<code>{escape(asked_for(job))}</code>"
    is_download = job.kind == "download"
    match job.state:
        case "queued" | "running" if is_download:
            return (
                f"<p class='working-line'>Downloading {name}</p>"
                f"<p><progress value='{job.progress:.4f}' max='1'></progress> "
                f"{escape(job.message)}</p>"
                "<button type='button' class='button' data-model='stop'>Stop</button>"
            )
        case "queued" | "running":
            return f"<p class='working-line'>Looking at {name}</p>"
        case "cancelled" if is_download:
            return f"<p>Stopped. What came whole of {name} is kept.</p>{_download('Go on')}"
        case "failed" if is_download:
            problem = f"<p class='problem' role='alert'>{escape(job.message)}</p>"
            return f"{problem}{_download('Try again')}"
        case "failed":
            if not is_hub_id(asked_for(job)):
                return f"<p class='problem' role='alert'>{escape(job.message)}</p>"
            return (
                f"<p>{name} is not on this computer, or not whole.</p>"
                "<p class='soft'>It comes from huggingface.co, into the cache that other "
                "tools share: some gigabytes. Only for such a download does the studio ask another "
                f"machine for anything.</p>{_download('Download it')}"
            )
        case "done":
            note = job.result.get("note", "")
            return (
                f"<p><b>{escape(model_words(job))}</b> {name}</p>"
                + (f"<p class='soft'>{escape(note)}</p>" if note else "")
                + "<button type='button' class='button primary' data-model='found'>"
                "Use this model</button>"
            )
        case _:
            return ""


def _download(label: str) -> str:
    return f"<button type='button' class='button primary' data-model='download'>{label}</button>"


def model_words(job: Job) -> str:
    """`my-model: Stable Diffusion, made for 512 pixels.`"""
    found = job.result
    return f"{found['name']}: {found['family']}, made for {found['size_px']} pixels."


# --- what it looks like --------------------------------------------------------------------------


def _preview(page: Page) -> None:
    picture = gr.HTML(apply_default_css=False, elem_id="preview")
    page.shows(lambda look: {picture: preview(look)}, [picture])


def draw_preview(page: Page, before: SessionSettings, session: Session) -> None:
    """Have the prompts looked at, and the shown ones drawn at once, when they or how they are made
    have changed."""
    after = session.settings
    if all(
        getattr(before, name) == getattr(after, name)
        for name in ("sampling", "base", "prompts", "shown_prompts")
    ):
        return
    for job in page.store.jobs(session.id, kind="preview"):
        if job.state == "queued":
            page.store.cancel_job(job.id)
    request_preview(page.store, session)


def preview(look: Look) -> str:
    """The first prompts as the model draws them now."""
    if not look.settings.shown_prompts:
        return "<div class='empty small'><h2>Nothing to draw yet</h2><p>Write a prompt.</p></div>"
    pictures = previews(look)
    job = look.newest_job("preview")
    is_drawing = job is not None and job.state in ("queued", "running")
    title = "Drawn by the base model"
    if look.current_adapter:
        title = f"Drawn with round {look.current_adapter.number}"
    state = "<span class='working-line'>Drawing</span>" if is_drawing else ""
    problem = ""
    if job is not None and job.state == "failed":
        problem = f"<p class='problem' role='alert'>{escape(job.message)}</p>"
    current = look.session.current_adapter_id
    cells = "".join(
        _cell(prompt, pictures.get((current, prompt))) for prompt in look.settings.shown_prompts
    )
    return (
        f"<h2 class='section'>{title} {state}</h2>{problem}"
        f"<div class='preview-grid {'drawing' if is_drawing else ''}'>{cells}</div>"
    )


def _cell(prompt: str, image: Image | None) -> str:
    name = escape(prompt, quote=True)
    picture = "<span class='picture none'></span>"
    if image is not None:
        picture = f"<img class='picture' src='{image_url(image.id)}' alt='{name}'>"
    return (
        f"<figure class='{'working' if image is None else ''}'>{picture}"
        f"<figcaption title='{name}'>{name}</figcaption></figure>"
    )
