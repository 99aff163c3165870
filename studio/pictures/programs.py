"""How a picture was made, from whatever program: the texts that it carries, and who wrote them.

parameters          A1111 and its kin (`infotext`); JSON of Fooocus and SwarmUI
prompt              ComfyUI's graph (`comfyui`)
invokeai_metadata   InvokeAI from 3 on, JSON
sd-metadata, Dream  InvokeAI before that: JSON, and a line of its old commands
Comment             NovelAI, JSON
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from studio.pictures import comfyui, infotext
from studio.pictures.infotext import MOST_CHARACTERS, Parameters, ParametersError, encodable

MOST_LORAS = 50

# The names of a setting in the JSON of all these programs; none means another thing by them.
NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("positive_prompt", "prompt", "Prompt"),
    "negative": ("negative_prompt", "negativeprompt", "uc", "Negative Prompt"),
    "steps": ("steps", "Steps"),
    "guidance": ("cfg_scale", "guidance_scale", "cfgscale", "scale", "Guidance Scale"),
    "seed": ("seed", "Seed"),
    "width": ("width",),
    "height": ("height",),
    "resolution": ("resolution", "Resolution"),  # of Fooocus: "(896, 1152)"
    "sampler": ("scheduler", "sampler", "sampler_name", "Sampler"),
    "model": ("model", "base_model", "model_weights", "Base Model"),
    "clip skip": ("clip_skip",),
}
DREAM = {"s": "steps", "S": "seed", "W": "width", "H": "height", "C": "guidance", "A": "sampler"}


def read(texts: Mapping[str, str]) -> Parameters:
    """How a picture was made, by the texts that it carries.

    Raises ParametersError, with a sentence, where they do not say so.
    """
    for name, reader in (
        ("parameters", _parameters),
        ("invokeai_metadata", _invokeai),
        ("sd-metadata", _older_invokeai),
        ("Dream", _dream),
        ("dream", _dream),
        ("prompt", comfyui.read),
        ("Comment", _json),
    ):
        if texts.get(name, "").strip():
            return reader(texts[name])
    if texts.get("workflow", "").strip():
        raise ParametersError(
            "This picture carries ComfyUI’s drawing of its nodes alone, without what they were set "
            "to: save it with ComfyUI’s own Save Image."
        )
    raise ParametersError("This picture does not say how it was made.")


def _parameters(text: str) -> Parameters:
    if not text.lstrip().startswith("{"):
        return infotext.read(text)
    try:
        return _json(text)
    except ParametersError:
        return infotext.read(text)  # a prompt that begins with alternatives


def _document(text: str) -> dict[str, Any]:
    if len(text) > MOST_CHARACTERS:
        raise ParametersError("What this picture says of its settings is far too long to be real.")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParametersError("This picture does not say how it was made.") from error
    if not isinstance(document, dict):
        raise ParametersError("This picture does not say how it was made.")
    return document


def _json(text: str) -> Parameters:
    return _of(_document(text))


def _invokeai(text: str) -> Parameters:
    """It counts the layers that are left out, where others count the one that is read."""
    made = _of(_document(text))
    return made if made.clip_skip is None else replace(made, clip_skip=made.clip_skip + 1)


def _older_invokeai(text: str) -> Parameters:
    """Settings one level down; prompts in parts, and what is not to be seen in square brackets."""
    document = _document(text)
    image = document.get("image")
    if not isinstance(image, dict):
        return _of(document)
    parts = image.get("prompt")
    if isinstance(parts, list):
        texts = (part.get("prompt") for part in parts[:50] if isinstance(part, dict))
        image["prompt"] = ", ".join(text for text in texts if isinstance(text, str))
    return _with_negative(_of({"model": document.get("model_weights"), **image}))


def _dream(line: str) -> Parameters:
    """`"a cat [blurry]" -s 50 -S 7 -W 512 -H 512 -C 7.5 -A k_lms`"""
    if len(line) > MOST_CHARACTERS:
        raise ParametersError("What this picture says of its settings is far too long to be real.")
    found = re.match(r'\s*"((?:[^"\\]|\\.)*)"(.*)', line, re.DOTALL)
    prompt, rest = (found[1], found[2]) if found else (line.partition(" -")[0], line)
    options = re.findall(r"(?:^|\s)-([sSWHCA])\s*([\w.]{1,40})", rest)
    values: dict[str, Any] = {"prompt": prompt.strip()}
    for letter, value in options:
        values[NAMES[DREAM[letter]][0]] = value
    return _with_negative(_of(values))


def _with_negative(made: Parameters) -> Parameters:
    """What older versions of InvokeAI had in square brackets was their negative prompt."""
    negative = re.findall(r"\[([^\[\]]*)\]", made.prompt)
    if not negative or made.negative_prompt:
        return made
    prompt = " ".join(re.sub(r"\[[^\[\]]*\]", " ", made.prompt).split())
    return replace(made, prompt=prompt, negative_prompt=", ".join(map(str.strip, negative)))


def _of(values: Mapping[str, Any]) -> Parameters:
    """The settings among the values of a JSON document."""
    inner = values.get("sui_image_params")
    if isinstance(inner, dict):
        values = inner

    def value(what: str) -> Any:
        return next((values[name] for name in NAMES[what] if values.get(name) is not None), None)

    size = re.findall(r"\d{1,5}", str(value("resolution"))[:100])
    width, height = _whole(value("width")), _whole(value("height"))
    if width is None and len(size) == 2:
        width, height = map(int, size)
    made = Parameters(
        prompt=_text(value("prompt"), infotext.MOST_CHARACTERS),
        negative_prompt=_text(value("negative"), infotext.MOST_CHARACTERS),
        steps=_whole(value("steps")),
        sampler=_text(value("sampler")),
        guidance=_number(value("guidance")),
        seed=_whole(value("seed")),
        width_px=width,
        height_px=height,
        model=_named(value("model")),
        loras=_loras(values.get("loras")),
        clip_skip=_whole(value("clip skip")),
    )
    if not made.prompt and made.steps is None and made.seed is None:
        raise ParametersError("This picture does not say how it was made.")
    return made


def _loras(entries: Any) -> tuple[tuple[str, float], ...]:
    """InvokeAI's {"model" or "lora", "weight"}, or Fooocus's [name, strength, …]."""
    found = []
    for entry in entries[:MOST_LORAS] if isinstance(entries, list) else ():
        match entry:
            case {"model": name, "weight": strength} | {"lora": name, "weight": strength}:
                pass
            case [str() as name, int() | float() as strength, *_]:
                pass
            case _:
                continue
        number = _number(strength)
        if _named(name):
            found.append((_named(name), 1.0 if number is None else number))
    return tuple(found)


def _named(value: Any) -> str:
    """The name of a model or LoRA, which may be an object of which the name is a part."""
    if isinstance(value, dict):
        value = value.get("name") or value.get("model_name") or ""
    return _text(value).replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".safetensors")


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\d{1,20}", value):
        return int(value)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 <= value < 10**20 else None


def _number(value: Any) -> float | None:
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,6}(\.\d{0,15})?", value):
        return float(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e6 else None


def _text(value: Any, most: int = 1000) -> str:
    return encodable(value)[:most].strip() if isinstance(value, str) else ""
