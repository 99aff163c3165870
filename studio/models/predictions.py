"""What a network predicts, told from its model's files alone.

The weights of a single file do not contain it. It is found in this order:

1. a `.yaml` of the same name beside it with `parameterization: "v"`, `"eps"` or `"flow"`. The first
   two are the original code's and other tools': with it an artist can override everything;
2. its header (`modelspec.prediction_type`, `modelspec.architecture`), or a tensor called `v_pred`;
3. for SD 2 the spread of one bias near the network's end, which is twice as large in velocity
   models (2.0 and 2.1 at 768 px) and in models made from them; ComfyUI uses the same rule;
4. for SDXL its name: a rectified flow has the layers of its base model and, so far, no mark. Forge
   goes by the word "rectified", which is believed here too; "flow" and "rf" are only mentioned;
5. otherwise noise, as in SD 1 and SDXL.

In a folder the scheduler's configuration has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open

from studio import weights
from studio.families import FamilyName, family_of, key_of
from studio.maths.schedules import PredictionType
from studio.weights import FLOATS, Header, ModelError

PARAMETERIZATIONS: dict[str, PredictionType] = {
    "eps": "epsilon",
    "v": "v_prediction",
    "flow": "flow_prediction",
}
# Spellings in headers, in lower case and with underscores.
SPELLINGS: dict[str, PredictionType] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "flow": "flow_prediction",
    "flow_prediction": "flow_prediction",
    "flow_matching": "flow_prediction",
    "rectified_flow": "flow_prediction",
    "rf": "flow_prediction",
}
_FLOW_WORD = re.compile(r"flow|(?<![a-z])rf(?![a-z])")


class Told(NamedTuple):
    kind: PredictionType
    note: str = ""  # a sentence for the artist, where it was not certain


def told_by_file(path: Path, header: Header, family: FamilyName) -> Told:
    """What a single file predicts. Raises ModelError if the studio cannot use it."""
    stated = _parameterization(path.with_suffix(".yaml")) or _stated(path.name, header)
    told = Told(stated) if stated else _by_weights(path, header, family)
    if told is None:
        told = _by_name(path) if _is_usable(family, "flow_prediction") else Told("epsilon")
    require_usable(path.name, family, told.kind)
    return told


def told_by_scheduler(
    name: str, config: Mapping[str, Any], is_moved: bool = False
) -> PredictionType:
    """What a folder with this scheduler configuration predicts. is_moved: the size of a picture
    moves its timesteps, by a rule of its family. Raises ModelError if the studio has
    no such schedule, and ValueError for values that make no sense."""
    scheduler = str(config.get("_class_name"))
    if not scheduler.startswith("FlowMatch") and not config.get("use_flow_sigmas"):
        kind = config.get("prediction_type", "epsilon")
        if kind not in SPELLINGS.values():
            raise _unsupported(name, str(kind))
        return kind
    for option in ("use_dynamic_shifting", "shift_terminal", "invert_sigmas"):
        if config.get(option) and not (is_moved and option == "use_dynamic_shifting"):
            raise ModelError(
                f"{name} was trained as a flow with a noise schedule that is not supported (see "
                f"{option} in its scheduler's configuration)."
            )
    count = config.get("num_train_timesteps", 1000)
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"num_train_timesteps is {count}")
    flow_shift(config)
    return "flow_prediction"


def flow_shift(config: Mapping[str, Any]) -> float:
    """The shift of the timesteps in a scheduler's configuration: diffusers' flow schedulers and its
    others have two names for it. Raises ValueError unless it is a positive number."""
    shift = config.get("shift", config.get("flow_shift", 1.0))
    if not isinstance(shift, int | float) or not math.isfinite(shift) or shift <= 0:
        raise ValueError(f"shift is {shift}")
    return float(shift)


def require_usable(name: str, family: FamilyName, kind: PredictionType) -> None:
    """Raise ModelError unless there are models of this architecture with such predictions."""
    if _is_usable(family, kind):
        return
    if kind == "flow_prediction":
        raise ModelError(
            f"{name} predicts rectified flow, which is supported for Stable Diffusion XL only."
        )
    raise _unsupported(name, kind)


def _unsupported(name: str, kind: str) -> ModelError:
    return ModelError(
        f"{name} predicts {kind[:40]}, which is not supported. Models that predict noise "
        "(epsilon), velocity (v) or a rectified flow can be used."
    )


def _is_usable(family: FamilyName, kind: PredictionType) -> bool:
    try:
        return bool(key_of(family, kind))
    except KeyError:
        return False


# --- a single file -------------------------------------------------------------------------------


def _parameterization(path: Path) -> PredictionType | None:
    """The parameterization in the configuration beside the checkpoint, if there is one."""
    try:
        if not path.is_file() or path.stat().st_size > weights.MAX_CONFIG_BYTES:
            return None
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # matches in linear time
    line = r"^[ \t]*parameterization:[ \t]*['\"]?(v|eps|flow)['\"]?[ \t\r]*$"
    match = re.search(line, text, re.MULTILINE)
    return PARAMETERIZATIONS[match[1]] if match else None


def _stated(name: str, header: Header) -> PredictionType | None:
    """What the header says."""
    stated = header.metadata.get("modelspec.prediction_type", "").lower()
    if "768-v" in header.metadata.get("modelspec.architecture", ""):
        return "v_prediction"
    if stated not in ("", "none", "unknown"):
        kind = SPELLINGS.get(re.sub(r"[- ]", "_", stated))
        if kind is None:
            raise _unsupported(name, stated)
        return kind
    return "v_prediction" if "v_pred" in header.tensors else None


def _by_weights(path: Path, header: Header, family: FamilyName) -> Told | None:
    mark = family_of(family).velocity_mark
    entry = header.tensors.get(mark.tensor) if mark else None
    if mark is None or entry is None or entry.dtype not in FLOATS:
        return None
    with safe_open(path, "pt") as file:
        spread = file.get_tensor(mark.tensor).float().std(correction=0).item()
    return Told("v_prediction" if spread > mark.spread else "epsilon")


def _by_name(path: Path) -> Told:
    name = path.stem.lower()
    if "rectified" in name:
        return Told(
            "flow_prediction",
            "By its name it is a rectified flow, and it is drawn as one. If its pictures are only "
            f"noise, {_yaml_hint(path, 'eps')}",
        )
    if _FLOW_WORD.search(name):
        return Told(
            "epsilon",
            "Its file does not tell whether it is a rectified flow, and it is drawn as an ordinary "
            f"SDXL model. If its pictures are only noise, {_yaml_hint(path, 'flow')}",
        )
    return Told("epsilon")


def _yaml_hint(path: Path, word: str) -> str:
    return (
        f"put a text file named {path.stem}.yaml beside it, with the line "
        f'`parameterization: "{word}"`.'
    )
