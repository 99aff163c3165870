"""The settings of a picture as text, in the form that A1111 writes into its PNG files.

    a red apple, <lora:blue:0.8>
    Negative prompt: blurry
    Steps: 20, Sampler: DDIM, CFG scale: 3, Seed: 7, Size: 64x64, Model hash: ab12, Model: starter

The prompt may have several lines, and so may the negative prompt; the last line holds the rest, as
`Name: value` with commas between. A value that holds a comma, a colon or a line break is written as
a JSON string. Text in, text out: `studio.pictures.files` puts it into files.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

MOST_CHARACTERS = 100_000  # nobody's settings are longer
NEGATIVE = "Negative prompt:"
# Of a LoRA, and of what A1111 has besides: a name, and mostly a strength.
LORA = re.compile(r"<(?:lora|lyco|hypernet):([^:<>]+)(?::(-?[0-9.]+))?(?::[^<>]*)?>")

# A value is a JSON string, or anything without a comma: as A1111 itself reads them. A name has a
# greatest length, so that the time to read a text grows as its length does, whatever it says.
_FIELD = re.compile(r'(\w[\w \-/]{1,60}+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_FEWEST_FIELDS = 3  # of fewer, the last line is taken for a part of the prompt, as A1111 does


class ParametersError(ValueError):
    """What was read holds no settings; the message is a sentence for the artist."""


@dataclass(frozen=True)
class Parameters:
    """How a picture was made. None: the text does not say.

    loras: names of the LoRAs that it was drawn with, and their strengths. more: everything else
    that the text says, as it stands there. unread: sentences on what is there and is not read.
    """

    prompt: str = ""
    negative_prompt: str = ""
    steps: int | None = None
    sampler: str = ""
    guidance: float | None = None
    seed: int | None = None
    width_px: int | None = None
    height_px: int | None = None
    eta: float | None = None
    model: str = ""
    model_hash: str = ""
    loras: tuple[tuple[str, float], ...] = ()
    clip_skip: int | None = None  # not said where all layers were read
    more: dict[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


def write(made: Parameters) -> str:
    """The text for a picture."""
    tags = (lora_tag(name, strength) for name, strength in made.loras)
    lines = [" ".join(filter(None, (made.prompt, *tags)))]
    if made.negative_prompt:
        lines.append(f"{NEGATIVE} {made.negative_prompt}")
    size = None
    if made.width_px is not None and made.height_px is not None:
        size = f"{made.width_px}x{made.height_px}"
    fields: dict[str, Any] = {
        "Steps": made.steps,
        "Sampler": made.sampler or None,
        "CFG scale": _number(made.guidance),
        "Seed": made.seed,
        "Size": size,
        "Model hash": made.model_hash or None,
        "Model": made.model or None,
        _eta_name(made.sampler): _number(made.eta),
        "Clip skip": made.clip_skip if (made.clip_skip or 1) > 1 else None,
        **made.more,
    }
    said = [f"{name}: {_quoted(str(value))}" for name, value in fields.items() if value is not None]
    return "\n".join([*lines, ", ".join(said)])


def read(text: str) -> Parameters:
    """What a text says, written by the studio or by A1111 and its kin.

    Raises ParametersError when it says nothing of how a picture was made.
    """
    if len(text) > MOST_CHARACTERS:
        raise ParametersError("What this picture says of its settings is far too long to be real.")
    text = encodable(text)
    *lines, last = text.strip().split("\n")
    found = {name.strip(): _unquoted(value.strip()) for name, value in _FIELD.findall(last)}
    if len(found) < _FEWEST_FIELDS:
        lines, found = [*lines, last], {}
    prompt: list[str] = []
    negative: list[str] = []
    part = prompt
    for line in lines:
        if part is prompt and line.strip().startswith(NEGATIVE):
            part = negative
        part.append(line.strip())
    if not found and part is prompt:
        raise ParametersError("This picture does not say how it was made.")
    if negative:
        negative[0] = negative[0].removeprefix(NEGATIVE).strip()
    words = "\n".join(prompt)
    loras = loras_in(words)
    words = LORA.sub("", words)
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", found.pop("Size", "")) or (None, None, None)
    eta = _float(found.pop(_eta_name(found.get("Sampler", "")), None))
    return Parameters(
        prompt="\n".join(line.strip() for line in words.split("\n")).strip(),
        negative_prompt="\n".join(negative).strip(),
        steps=_int(found.pop("Steps", None)),
        sampler=found.pop("Sampler", ""),
        guidance=_float(found.pop("CFG scale", None)),
        seed=_int(found.pop("Seed", None)),
        width_px=_int(size[1]),
        height_px=_int(size[2]),
        eta=_float(found.pop("Eta", None)) if eta is None else eta,  # as the studio wrote it once
        clip_skip=_int(found.pop("Clip skip", None)),
        model=found.pop("Model", ""),
        model_hash=found.pop("Model hash", ""),
        loras=loras,
        more=found,
    )


def lora_tag(name: str, strength: float) -> str:
    """`<lora:name:0.5>`, by which A1111 applies a LoRA."""
    return f"<lora:{lora_name(name)}:{strength:.12g}>"


def loras_in(text: str) -> tuple[tuple[str, float], ...]:
    """Name and strength of every tag in a text; 1 where the strength is no number."""
    found = ((name.strip(), _float(strength or "1")) for name, strength in LORA.findall(text))
    return tuple((name, 1.0 if strength is None else strength) for name, strength in found)


def _eta_name(sampler: str) -> str:
    """A1111 has two settings for eta; "Eta" is that of ancestral samplers, and DDIM ignores it."""
    return "Eta DDIM" if sampler == "DDIM" else "Eta"


def lora_name(name: str) -> str:
    """A name as it can stand in `<lora:name:strength>`."""
    return " ".join(re.sub(r"[:<>\x00-\x1f]", " ", name).split()) or "lora"


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:\n"]', value) else value


def _unquoted(value: str) -> str:
    if len(value) < 2 or not (value.startswith('"') and value.endswith('"')):
        return value
    try:
        read_ = json.loads(value)
    except ValueError:
        return value
    return encodable(read_) if isinstance(read_, str) else value


def encodable(text: str) -> str:
    """Halves of letters, which no file or page can hold, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.12g}"


def _int(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,19}", text) else None


def _float(text: str | None) -> float | None:
    matches = text is not None and re.fullmatch(r"-?\d{1,6}(\.\d{0,15})?(e-?\d{1,2})?", text)
    return float(text) if matches else None
