"""Settings: the artist's choices, as frozen dataclasses that are checked when they are made.

Both processes share this module, so it imports no torch, no gradio and nothing else of the studio.
Every class has `to_dict` and `from_dict` for the store. Unknown keys are refused, so that a store
from a newer version is never half understood. The file is long, because all settings are checked by
the same rules.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

STARTER_PATH = Path(__file__).resolve().parent.parent / "assets" / "starter"
LEAST_PX, MOST_PX, STEP_PX = 64, 2048, 8  # of a side of a picture
STARTER_SIZE_PX = 256  # of the starter model's pictures
RECOGNISER_PATH = STARTER_PATH.parent / "recogniser"

# The id of a model on the Hugging Face hub; an existing local path has precedence.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")

Choice = Literal["left", "right", "tie", "both_bad", "skip"]
CHOICES: tuple[Choice, ...] = ("left", "right", "tie", "both_bad", "skip")

# The artist's reason for a pick.
Reason = Literal["composition", "detail", "colour", "subject"]
REASONS: tuple[Reason, ...] = ("composition", "detail", "colour", "subject")
# Marks on a picture are a map of so many places across and down, whatever its size. It is stored as
# the bits of the places, row by row, in hexadecimal.
MARKS_ACROSS = 32

MAX_PROMPT_CHARACTERS = 2000
MAX_NOTE_CHARACTERS = 2000
FEWEST_PICKS = 4  # of left or right, that a round can learn from
FEWEST_LONE = 4  # favourites, or favourites and as many bad pictures, that a round can learn from
MOST_CLIP_SKIP = 12  # more layers of a text encoder are never worth skipping
UNBOUNDED = 256  # noise draws per pair: more than a round uses, so that none is repeated
PREVIEW_PROMPTS = 6  # at most so many prompts are redrawn after every round
MAX_PROMPTS = 1000
MAX_PATH_CHARACTERS = 4096
LARGEST_INTEGER = 2**63 - 1  # of the database
# Of a taste: 1 is what was learned, 0 the base model; below 0 it is turned round.
LEAST_STRENGTH, MOST_STRENGTH = -1.0, 2.0
_STRENGTH_BOUNDS = f"A strength lies between {LEAST_STRENGTH:g} and {MOST_STRENGTH:g}"


class SettingsError(ValueError):
    """An invalid setting; the message is a sentence for the artist."""


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise SettingsError(sentence)


def checked_strength(strength: float | None, *, zero: bool = True) -> float:
    """The strength of a taste. Raises SettingsError if it is out of bounds, or 0 unless `zero`."""
    is_within = strength is not None and LEAST_STRENGTH <= strength <= MOST_STRENGTH
    if not is_within or not (zero or strength):
        end = "." if zero else ", and is not 0: that is the base model."
        raise SettingsError(_STRENGTH_BOUNDS + end)
    return float(strength or 0)


def _within(default: float | None, least: float, most: float, sentence: str) -> Any:
    """A field for a number from `least` to `most`, inclusive; `sentence` is the error message."""
    return field(default=default, metadata={"within": (least, most, sentence)})


def _positive(default: float | None, most: float, sentence: str) -> Any:
    """A field for a number greater than 0, and at most `most`."""
    return _within(default, math.ulp(0.0), most, sentence)


def _is_number(value: Any, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _is_text(value: Any) -> bool:
    """Whether it is a text that can be stored: JSON can contain lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_hub_id(base_model: str) -> bool:
    """Whether it is `owner/name`, and not a local file or folder."""
    return bool(HUB_ID.fullmatch(base_model)) and not Path(base_model).exists()


class _Stored:
    """`to_dict` and `from_dict` for frozen dataclasses; `nested`: the types of inner settings."""

    nested: ClassVar[dict[str, type]] = {}
    # Values of later fields in settings from before these fields. Missing keys are read with these
    # values, and equal values are not written, so that old and new dictionaries compare equal.
    _before: ClassVar[dict[str, Any]] = {}
    # Old names of fields in stores and archives, with their present names.
    _renamed: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        """Check the type of every value and the bounds of every number.

        This covers all sources of settings: forms, the command line, the store and archives.
        """
        for each in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            kind, _, optional = str(each.type).partition(" | ")
            if value is None and optional:
                continue
            fits, sentence = True, f"The setting {each.name} is invalid."
            if each.name in self.nested:
                fits = isinstance(value, self.nested[each.name])
            elif kind in ("int", "float"):
                least, most, sentence = each.metadata["within"]
                fits = _is_number(value, whole=kind == "int") and least <= value <= most
            elif kind == "bool":
                fits = isinstance(value, bool)
            elif kind.startswith("tuple"):
                fits = isinstance(value, tuple) and all(map(_is_text, value))
            else:
                fits = _is_text(value)
            _require(fits, sentence)

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for each in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            if each.name not in self._before or value != self._before[each.name]:
                values[each.name] = value.to_dict() if isinstance(value, _Stored) else value
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        _require(isinstance(values, dict), "Settings must be values by name.")
        names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        values = {cls._renamed.get(name, name): value for name, value in values.items()}
        unknown = sorted(map(str, set(values) - names))
        _require(not unknown, f"Unknown setting: {', '.join(unknown)}.")
        values = {**cls._before, **values}
        for name, kind in cls.nested.items():
            if isinstance(values.get(name), dict):
                values[name] = kind.from_dict(values[name])
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
        missing = {
            f.name
            for f in dataclasses.fields(cls)  # type: ignore[arg-type]
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        } - set(values)
        _require(not missing, f"Missing setting: {', '.join(sorted(missing))}.")
        return cls(**values)


@dataclass(frozen=True)
class SamplingSettings(_Stored):
    """How an image is drawn. Stored with every trajectory, from where training reads it."""

    steps: int = _within(20, 1, 150, "Steps must be between 1 and 150.")
    # Up to 1 there is no guidance, as in diffusers: the network is asked once a step, with the
    # prompt alone, and the negative prompt is not read. Turbo, Lightning and LCM models need that.
    guidance: float = _within(3.0, 0.0, 30.0, "Guidance must be between 0 and 30.")
    width_px: int = _within(
        STARTER_SIZE_PX,
        LEAST_PX,
        MOST_PX,
        "Width must be a multiple of 8 between 64 and 2048 pixels.",
    )
    height_px: int = _within(
        STARTER_SIZE_PX,
        LEAST_PX,
        MOST_PX,
        "Height must be a multiple of 8 between 64 and 2048 pixels.",
    )
    seed: int = _within(0, 0, LARGEST_INTEGER, "The seed must be a whole number from 0 upwards.")
    negative_prompt: str = ""
    eta: float = _within(1.0, 0.0, 1.0, "Eta must be between 0 and 1.")
    shared_noise: bool = True  # both images of a pair start from the same noise
    # The text encoder's layer in use, counted from the last, which is 1; as in A1111.
    clip_skip: int = _within(
        1, 1, MOST_CLIP_SKIP, f"Clip skip must be between 1 and {MOST_CLIP_SKIP}."
    )

    _before: ClassVar[dict[str, Any]] = {"clip_skip": 1}
    # Settings that may differ between the pictures of a round.
    _of_each_picture: ClassVar[tuple[str, ...]] = ("seed", "shared_noise")

    @property
    def of_a_round(self) -> SamplingSettings:
        """The settings that the pictures of a round share: all but seed and shared noise."""
        usual = SamplingSettings()
        each = {name: getattr(usual, name) for name in self._of_each_picture}
        return dataclasses.replace(self, **each)

    def may_share_a_round_with(self, other: SamplingSettings) -> bool:
        """Whether one round may learn from pictures of both."""
        return self.of_a_round == other.of_a_round

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, size_px in (("Width", self.width_px), ("Height", self.height_px)):
            sentence = f"{name} must be a multiple of 8 between 64 and 2048 pixels."
            _require(size_px % STEP_PX == 0, sentence)
        _require(
            len(self.negative_prompt) <= MAX_PROMPT_CHARACTERS,
            f"The negative prompt is longer than {MAX_PROMPT_CHARACTERS} characters.",
        )


# Estimators of the gains (`studio.engine.objective.ESTIMATORS`).
Loss = Literal["diffusion_dpo", "d3po", "d3po_given_end"]
LOSSES: tuple[str, ...] = get_args(Loss)

# Forms of the preference loss, by their names in `studio.maths.objectives`.
Form = Literal[
    "dpo",
    "ipo",
    "hinge",
    "linear",
    "smoothed",
    "robust",
    "capped",
    "jensen_shannon",
    "forward_kl",
    "half_alpha",
    "anchored",
    "asymmetric",
    "nca",
    "sppo",
    "kto",
    "bco",
    "seppo",
]
FORMS: tuple[str, ...] = get_args(Form)

# How an order of several pictures counts (`studio.engine.orders`).
Orders = Literal["pairs", "rank", "list"]

# The training settings of the first version, before the fields existed.
_FIRST_VERSION: dict[str, Any] = {
    "optimizer": "adamw",
    "timestep_fraction": 1.0,
    "layers": "attention",
    "shortcut_rate": 1.0,
    "target_shift": None,
    "noise_draws_per_pair": UNBOUNDED,
    "count_strength": False,
    "lone_pictures": False,
    "favourites_alone": False,
    "keep_to_prompt": 0.0,
    "orders": "pairs",
    "beside": None,
    "beside_share": 0.5,
    "from_tastes": False,
}


@dataclass(frozen=True)
class TrainingSettings(_Stored):
    """How a round learns. `OBJECTIVES` holds the presets; `studio.engine` explains each term.

    loss: the estimator of the gains: "diffusion_dpo" from the finished pictures, "d3po" from the
        steps of the drawing, "d3po_given_end" from the steps with `next` replaced by its
        expectation given the picture (`studio.engine.estimators.StepsGivenEnd`).
    form: the function from the gains of a pair to its loss (`studio.maths.objectives.FORMS`).
    reduction: how a step's squared errors over the latent's elements become one number:
        "sum" (the paper's likelihood), "mean" (the published code), or "noise" (the mean error of
        the predicted noise, weighted so that a change of the network's output moves the log-ratio
        of every step alike).
    beta: temperature of the preference; for D3PO in units of the reduction, for Diffusion-DPO for
        mean squared errors of velocity.
    clip_range: the ratio policy / reference is clipped to 1 ± clip_range; None: no clipping.
    optimizer: "scalar_adam" (`studio.maths.scalar_adam`), which follows the gradient's direction;
        or "adamw". They need different learning rates.
    timestep_fraction: finished pictures are noised to the noisiest fraction of the timesteps. D3PO
        takes the noisiest fraction of the drawing's random steps instead.
    noise_draws_per_pair: the number of draws of timestep and noise for a pair's finished pictures
        in a round. Draws take turns, and the reference's error of each is computed once. UNBOUNDED
        is more than a round uses. D3PO uses its steps instead.
    layers: the layers of the UNet with LoRA: the attention layers only, or also the shortcuts past
        the convolutions of residual blocks whose width changes. With the shortcuts, a round learns
        more from few picks (studio/bench/LOG.md).
    shortcut_rate: the shortcuts' learning rate, as a fraction of the attention's. Their gradients
        are larger, and at the full rate they would dominate.
    target_shift: the trust-region radius of a round, called its reach on the pages. The finished
        adapter is scaled to this root mean square change of the guided velocity, in units of
        latents (whose standard deviation is about 1). None leaves the adapter unscaled.
    count_strength: whether a pick of "much better" counts more than one of "better"
        (`studio.engine.trajectory.PairBatch.of`).
    lone_pictures: whether it learns from favourites, and from pairs that are both bad, too.
    favourites_alone: whether it learns from favourites, each against the pictures that were shown
        beside it and are none (SePPO, arXiv 2410.05255, whose form is "seppo"). A round without
        enough picks does.
    keep_to_prompt: the weight, beside a pick, of a pair of the chosen picture and the same under a
        prompt that it does not fit (TDPO; `studio.prompting.mismatched`). 0: no such pairs.
    orders: how the pairs of a grid count: "pairs" all alike, "rank" by their distance in the order
        (RankDPO), "list" as choices from a list (Plackett-Luce); see `studio.engine.orders`.
    beside: the id of an adapter of another taste that is to stay beside this one (MODPO, arXiv
        2310.03708); None: none. beside_share: how much of it, 0 to 1.
    from_tastes: whether it begins with the mixture of the artist's other tastes that the picks
        point to, instead of an untrained adapter (as PAL, arXiv 2406.08469;
        `studio.maths.taste_mixture`).
    """

    objective: str = "diffusion_dpo"
    loss: Loss = "diffusion_dpo"
    form: Form = "dpo"
    reduction: Literal["sum", "mean", "noise"] = "noise"
    beta: float = _positive(80.0, 1e9, "Beta must be greater than 0, and at most 1e9.")
    clip_range: float | None = _positive(
        None, 1.0 - 1e-9, "The clip range must lie between 0 and 1, or be left out."
    )
    guided: bool = False  # train with classifier-free guidance, or with the prompt only
    optimizer: Literal["scalar_adam", "adamw"] = "scalar_adam"
    learning_rate: float = _positive(3e-4, 1.0, "The learning rate must lie between 0 and 1.")
    timestep_fraction: float = _positive(
        0.25, 1.0, "The fraction of timesteps must lie between 0 and 1."
    )
    layers: Literal["attention", "attention_and_shortcuts"] = "attention_and_shortcuts"
    shortcut_rate: float = _positive(0.25, 1.0, "The shortcuts' rate must lie between 0 and 1.")
    target_shift: float | None = _positive(
        0.25, 3.0, "The reach must lie between 0 and 3, or be left out."
    )
    count_strength: bool = False
    lone_pictures: bool = False
    favourites_alone: bool = False
    keep_to_prompt: float = _within(0.0, 0.0, 10.0, "Keeping to the prompt weighs 0 to 10.")
    orders: Orders = "pairs"
    beside: str | None = None
    beside_share: float = _within(
        0.5, 0.1, 0.9, "The share of another taste must be between 0.1 and 0.9."
    )
    from_tastes: bool = False
    # Updates in a round = updates_base + updates_per_pick x picks.
    updates_base: int = _within(
        20, 0, 100_000, "The number of updates of a round must be between 0 and 100000."
    )
    updates_per_pick: float = _within(
        0.75, 0.0, 1000.0, "The updates per pick must be between 0 and 1000."
    )
    batch_pairs: int = _within(  # pairs, or grids, in one update
        16, 1, 4096, "Between 1 and 4096 pairs can be in one update."
    )
    # Random steps, or draws, of each pair in an update; a grid has fewer draws, so that an update
    # costs about the same. 0: all steps of the chain (D3PO).
    steps_per_pair: int = _within(2, 0, 150, "The steps of a pair must be between 0 and 150.")
    noise_draws_per_pair: int = _within(
        16, 1, UNBOUNDED, f"A pair has between 1 and {UNBOUNDED} noise draws."
    )
    # Pairs per forward pass; fewer need less memory.
    micro_batch_pairs: int = _within(16, 1, 4096, "The micro-batch must fit the batch.")
    max_grad_norm: float = _positive(
        1.0, 1e9, "The largest gradient must be greater than 0, and at most 1e9."
    )
    rank: int = _within(8, 1, 256, "The LoRA rank must be between 1 and 256.")
    alpha: float = _positive(8.0, 1024.0, "The LoRA alpha must be between 0 and 1024.")
    gradient_checkpointing: bool = False
    held_out_fraction: float = _within(  # of the picks, kept out of training to measure agreement
        0.2, 0.0, 0.5, "At most half of the picks can be held out."
    )
    seed: int = _within(0, 0, LARGEST_INTEGER, "The seed must be a whole number from 0 upwards.")

    _renamed: ClassVar[dict[str, str]] = {
        "optimiser": "optimizer",
        "noisiest_share": "timestep_fraction",
        "looks_per_pair": "noise_draws_per_pair",
        "reach": "target_shift",
    }
    _before: ClassVar[dict[str, Any]] = _FIRST_VERSION

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Older versions also had a fine-tuning baseline here; it opens as the default loss."""
        if isinstance(values, dict) and values.get("loss") == "finetune":
            values = {**values, "objective": "diffusion_dpo", "loss": "diffusion_dpo"}
        return super().from_dict(values)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.objective in OBJECTIVE_NAMES, f"Unknown objective: {self.objective}.")
        _require(self.loss in LOSSES, f"Unknown loss: {self.loss}.")
        _require(self.form in FORMS, f"Unknown form of the loss: {self.form}.")
        _require(
            self.reduction in ("sum", "mean", "noise"), f"Unknown reduction: {self.reduction}."
        )
        _require(
            self.optimizer in ("scalar_adam", "adamw"), f"Unknown optimizer: {self.optimizer}."
        )
        _require(
            self.layers in ("attention", "attention_and_shortcuts"),
            f"Unknown layers: {self.layers}.",
        )
        _require(self.orders in get_args(Orders), f"Unknown way to count an order: {self.orders}.")
        _require(self.micro_batch_pairs <= self.batch_pairs, "The micro-batch must fit the batch.")

    def updates(self, picks: int) -> int:
        """The number of updates of a round over `picks` picks of pairs or grids (at least 1)."""
        return max(1, round(self.updates_base + self.updates_per_pick * picks))


OBJECTIVE_NAMES = ("diffusion_dpo", "d3po_balanced", "d3po")

# The preset of each objective, the default first; d3po is arXiv 2311.13231 as in its published
# code. Betas of different objectives have different units.
OBJECTIVES: dict[str, TrainingSettings] = {
    "diffusion_dpo": TrainingSettings(),
    "d3po_balanced": TrainingSettings(
        objective="d3po_balanced",
        loss="d3po",
        beta=100.0,
        learning_rate=1e-3,
        updates_per_pick=2.0,
        steps_per_pair=1,
        **_FIRST_VERSION,
    ),
    "d3po": TrainingSettings(
        objective="d3po",
        loss="d3po",
        reduction="mean",
        beta=0.1,
        clip_range=0.1,
        guided=True,
        learning_rate=3e-5,
        updates_base=0,
        updates_per_pick=1.0,
        batch_pairs=1,
        steps_per_pair=0,
        micro_batch_pairs=1,
        **_FIRST_VERSION,
    ),
}


_STRENGTH_SENTENCE = "The strength of a LoRA file lies between -2 and 2, and is not 0."


@dataclass(frozen=True)
class StartLora(_Stored):
    """A LoRA file that is fused into the base model of a session."""

    path: str
    strength: float = _within(1.0, -2.0, 2.0, _STRENGTH_SENTENCE)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.path.strip()), "Write the path of a LoRA file first.")
        _require(
            len(self.path) <= MAX_PATH_CHARACTERS,
            f"A path has at most {MAX_PATH_CHARACTERS} characters.",
        )
        _require(self.strength != 0, _STRENGTH_SENTENCE)


@dataclass(frozen=True)
class MixPart(_Stored):
    """A part of a mix: a taste (the adapter of a round) or a LoRA file, at its strength."""

    adapter_id: str | None = None
    path: str | None = None
    strength: float = _within(1.0, LEAST_STRENGTH, MOST_STRENGTH, f"{_STRENGTH_BOUNDS}.")

    _before: ClassVar[dict[str, Any]] = {"adapter_id": None, "path": None}

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.adapter_id) != bool(self.path), "A mix is of tastes and of LoRA files.")
        _require(
            len(self.path or "") <= MAX_PATH_CHARACTERS,
            f"A path has at most {MAX_PATH_CHARACTERS} characters.",
        )


@dataclass(frozen=True)
class SessionSettings(_Stored):
    """All settings of a session."""

    # "starter", the path of a diffusers folder or checkpoint, or the hub's owner/name
    base_model: str = "starter"
    prompts: tuple[str, ...] = ()
    preview_prompts: tuple[str, ...] = ()  # redrawn after every round; empty: the first prompts
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    round_every: int = _within(  # picks between automatic rounds
        16, 2, 1000, "A round needs between 2 and 1000 new picks."
    )
    live: bool = True  # start rounds by itself while the artist goes on labelling
    queue_target: int = _within(  # unlabelled pairs, or grids, kept ready
        8, 1, 64, "Between 1 and 64 pairs can be kept ready."
    )
    pictures: int = _within(  # of one prompt, asked about at once; more than two are a grid
        2, 2, 9, "Between 2 and 9 pictures can be compared at once."
    )
    # The model that draws the pairs. Pairs of the base model reveal most about a taste
    # (studio/bench/LOG.md); pairs of the newest LoRA show its progress, and more of rare features.
    pairs_by: Literal["base", "newest"] = "base"
    # Where the pictures of pairs come from: drawn, or read from a folder of the artist's.
    pairs_of: Literal["drawings", "folder"] = "drawings"
    folder: str = ""  # of pictures, that was read last
    watch_folder: bool = False  # whether new pictures in it are read by themselves
    start: StartLora | None = None  # a part of the base model, of policy and reference alike
    # Of the base model's weights at the session's first use; "" until then.
    model_hash: str = ""
    model_bytes: int = _within(
        0, 0, LARGEST_INTEGER, "The size of a model is a whole number from 0 upwards."
    )

    _before: ClassVar[dict[str, Any]] = {
        "pairs_by": "newest",
        "pairs_of": "drawings",
        "folder": "",
        "watch_folder": False,
        "model_hash": "",
        "model_bytes": 0,
    }
    nested: ClassVar[dict[str, type]] = {
        "start": StartLora,
        "sampling": SamplingSettings,
        "training": TrainingSettings,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.base_model.strip()), "Choose a base model first.")
        _require(
            max(len(self.base_model), len(self.model_hash), len(self.folder))
            <= MAX_PATH_CHARACTERS,
            f"A path has at most {MAX_PATH_CHARACTERS} characters.",
        )
        for prompt in (*self.prompts, *self.preview_prompts):
            _require(bool(prompt.strip()), "A prompt is empty: write what the picture should show.")
            _require(
                len(prompt) <= MAX_PROMPT_CHARACTERS,
                f"A prompt is longer than {MAX_PROMPT_CHARACTERS} characters.",
            )
        _require(
            max(len(self.prompts), len(self.preview_prompts)) <= MAX_PROMPTS,
            f"A session takes at most {MAX_PROMPTS} prompts.",
        )
        _require(
            self.pairs_by in ("base", "newest"),
            "Pairs are drawn by the base model or by the newest LoRA.",
        )
        _require(
            self.pairs_of in ("drawings", "folder"),
            "Pairs are of drawings, or of pictures from a folder.",
        )

    @property
    def base(self) -> tuple[str, StartLora | None]:
        """The base model and the LoRA in it: together the weights of the reference."""
        return self.base_model, self.start

    @property
    def shown_prompts(self) -> tuple[str, ...]:
        """The fixed prompts, drawn with the base model and again after every round."""
        return (self.preview_prompts or self.prompts)[:PREVIEW_PROMPTS]
