"""What an artist can choose, as frozen values that are checked when they are made.

Nothing here imports torch, gradio or anything of ours: both processes share it. Every class has
`to_dict` / `from_dict`, the form in which the store keeps it; unknown keys are refused, so that a
store from a newer version is never half understood.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

STARTER_PATH = Path(__file__).resolve().parent.parent / "assets" / "starter"
STARTER_SIZE_PX = 64  # of the pictures the embedded model draws
RECOGNISER_PATH = STARTER_PATH.parent / "recogniser"

# The id of a model on the Hugging Face hub; a path on this computer goes before it.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")

Choice = Literal["left", "right", "tie", "both_bad", "skip"]
CHOICES: tuple[Choice, ...] = ("left", "right", "tie", "both_bad", "skip")

# Why one picture is better, when the artist says so.
Reason = Literal["composition", "detail", "colour", "subject"]
REASONS: tuple[Reason, ...] = ("composition", "detail", "colour", "subject")

MAX_PROMPT_CHARACTERS = 2000
MAX_NOTE_CHARACTERS = 2000
FEWEST_PICKS = 4  # of left or right, that a round can learn from
MOST_CLIP_SKIP = 12  # no text encoder that is skipped in has more layers that are worth reading
UNBOUNDED = 256  # looks at a pair: more than a round has, so that none comes twice
PREVIEW_PROMPTS = 6  # how many prompts are redrawn after every round
MAX_PROMPTS = 1000
MAX_PATH_CHARACTERS = 4096
LARGEST_INTEGER = 2**63 - 1  # that the database can keep


class SettingsError(ValueError):
    """A setting that cannot be used; the message is a sentence for the artist."""


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise SettingsError(sentence)


def _within(default: float | None, least: float, most: float, sentence: str) -> Any:
    """A number from `least` to `most`, both of them included; `sentence` says so to the artist."""
    return field(default=default, metadata={"within": (least, most, sentence)})


def _positive(default: float | None, most: float, sentence: str) -> Any:
    """A number greater than 0, and at most `most`."""
    return _within(default, math.ulp(0.0), most, sentence)


def _is_number(value: Any, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _is_text(value: Any) -> bool:
    """Half a surrogate pair, which JSON can write, is no text and cannot be stored."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_hub_id(base_model: str) -> bool:
    """Whether it is `owner/name`, and no file or folder here."""
    return bool(HUB_ID.fullmatch(base_model)) and not Path(base_model).exists()


class _Stored:
    """`to_dict` and `from_dict` for frozen dataclasses whose nested settings are of known types."""

    _nested: ClassVar[dict[str, type]] = {}
    # What fields that came later were before they came. They are read so where they are not
    # written, and written only where they differ: the store compares what was written then with
    # what is written now.
    _before: ClassVar[dict[str, Any]] = {}
    # Names that fields had in older stores and archives, with the names they have now.
    _renamed: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        """Every value is of its field's kind, and every number within its field's bounds.

        Whoever makes settings comes by here: a form, the command line, the store or an archive.
        """
        for one in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            kind, _, optional = str(one.type).partition(" | ")
            if value is None and optional:
                continue
            fits, sentence = True, f"The setting {one.name} makes no sense."
            if one.name in self._nested:
                fits = isinstance(value, self._nested[one.name])
            elif kind in ("int", "float"):
                least, most, sentence = one.metadata["within"]
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
        for one in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if one.name not in self._before or value != self._before[one.name]:
                values[one.name] = value.to_dict() if isinstance(value, _Stored) else value
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        _require(isinstance(values, dict), "Settings are values by name.")
        names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        values = {cls._renamed.get(name, name): value for name, value in values.items()}
        unknown = sorted(map(str, set(values) - names))
        _require(not unknown, f"Unknown setting: {', '.join(unknown)}.")
        values = {**cls._before, **values}
        for name, kind in cls._nested.items():
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
    """How an image is made. Stored with every trajectory; training reads it from there."""

    steps: int = _within(20, 2, 150, "Steps must be between 2 and 150.")
    guidance: float = _within(3.0, 1.0, 30.0, "Guidance must be between 1 and 30.")
    width_px: int = _within(
        STARTER_SIZE_PX, 64, 2048, "Width must be a multiple of 8 between 64 and 2048 pixels."
    )
    height_px: int = _within(
        STARTER_SIZE_PX, 64, 2048, "Height must be a multiple of 8 between 64 and 2048 pixels."
    )
    seed: int = _within(0, 0, LARGEST_INTEGER, "The seed must be a whole number from 0 upwards.")
    negative_prompt: str = ""
    eta: float = _within(1.0, 0.0, 1.0, "Eta must be between 0 and 1.")
    shared_noise: bool = True  # both images of a pair start from the same noise
    # Of the text encoder's layers, which is read last: 1 the last, 2 the one before; as in A1111.
    clip_skip: int = _within(
        1, 1, MOST_CLIP_SKIP, f"Clip skip must be between 1 and {MOST_CLIP_SKIP}."
    )

    _before: ClassVar[dict[str, Any]] = {"clip_skip": 1}
    # What two pictures of one round may differ in.
    _of_each_picture: ClassVar[tuple[str, ...]] = ("seed", "shared_noise")

    @property
    def of_a_round(self) -> SamplingSettings:
        """What the pictures of one round have in common: all but seed and shared noise."""
        usual = SamplingSettings()
        each = {name: getattr(usual, name) for name in self._of_each_picture}
        return dataclasses.replace(self, **each)

    def may_share_a_round_with(self, other: SamplingSettings) -> bool:
        """Whether a round may learn from pictures of both."""
        return self.of_a_round == other.of_a_round

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, size_px in (("Width", self.width_px), ("Height", self.height_px)):
            _require(
                size_px % 8 == 0, f"{name} must be a multiple of 8 between 64 and 2048 pixels."
            )
        _require(
            len(self.negative_prompt) <= MAX_PROMPT_CHARACTERS,
            f"The negative prompt is longer than {MAX_PROMPT_CHARACTERS} characters.",
        )


@dataclass(frozen=True)
class TrainingSettings(_Stored):
    """How a round learns. `OBJECTIVES` holds the presets; `studio.engine` explains each term.

    reduction: how a step's squared errors over the latent's elements become one number:
        "sum" (the paper's likelihood), "mean" (the published code), or "noise" (mean over the
        elements of the error in predicted noise, weighed so that a change of the network's output
        moves the log-ratio of every step alike).
    beta: temperature of the preference; for D3PO in units of the reduction, for Diffusion-DPO for
        mean squared errors of velocity.
    clip_range: the ratio policy / reference is kept within 1 ± clip_range; None leaves it free.
    optimizer: "scalar_adam" (`studio.maths.scalar_adam`), which goes where the gradient points;
        or "adamw". They want different learning rates.
    timestep_fraction: of the timesteps that finished pictures are noised to, the share with most
        noise, from which they are drawn. D3PO looks at steps of the drawing, and does not use it.
    noise_draws_per_pair: how many draws of timestep and noise a pair's finished pictures have in
        a round. They take turns, and the reference's errors of each draw are computed once.
        UNBOUNDED is more than a round uses. D3PO has its steps instead.
    layers: of the UNet, those that the LoRA changes: its attention alone, or beside it the
        shortcuts that lead past the convolutions of a residual block where its width changes. With
        these, more is learned from few picks (studio/bench/LOG.md).
    shortcut_rate: the shortcuts' learning rate, as a share of the attention's. Their gradients are
        larger, and with the whole of it they would decide nearly alone.
    target_shift: the radius of a round, which its finished adapter is scaled to: the root mean
        square change of the guided velocity, in units of latents (whose deviation is about 1).
        None leaves the adapter as the updates made it.
    """

    objective: str = "diffusion_dpo"
    loss: Literal["d3po", "diffusion_dpo", "finetune"] = "diffusion_dpo"
    reduction: Literal["sum", "mean", "noise"] = "noise"
    beta: float = _positive(80.0, 1e9, "Beta must be greater than 0, and at most 1e9.")
    clip_range: float | None = _positive(
        None, 1.0 - 1e-9, "The clip range must lie between 0 and 1, or be left out."
    )
    guided: bool = False  # train through classifier-free guidance, or the prompted half alone
    optimizer: Literal["scalar_adam", "adamw"] = "scalar_adam"
    learning_rate: float = _positive(3e-4, 1.0, "The learning rate must lie between 0 and 1.")
    timestep_fraction: float = _positive(0.25, 1.0, "The noisiest share must lie between 0 and 1.")
    layers: Literal["attention", "attention_and_shortcuts"] = "attention_and_shortcuts"
    shortcut_rate: float = _positive(0.25, 1.0, "The shortcuts' rate must lie between 0 and 1.")
    target_shift: float | None = _positive(
        0.25, 3.0, "The reach must lie between 0 and 3, or be left out."
    )
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
    # Steps of each pair, drawn at random; a grid's finished pictures are looked at with fewer, so
    # that an update costs as much. 0: all of the chain (D3PO).
    steps_per_pair: int = _within(2, 0, 150, "The steps of a pair must be between 0 and 150.")
    noise_draws_per_pair: int = _within(
        16, 1, UNBOUNDED, f"A pair is looked at in 1 to {UNBOUNDED} ways."
    )
    # Of the batch in one forward pass; smaller needs less memory.
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
    _before: ClassVar[dict[str, Any]] = {
        "optimizer": "adamw",
        "timestep_fraction": 1.0,
        "layers": "attention",
        "shortcut_rate": 1.0,
        "target_shift": None,
        "noise_draws_per_pair": UNBOUNDED,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.objective in OBJECTIVE_NAMES, f"Unknown objective: {self.objective}.")
        _require(self.loss in ("d3po", "diffusion_dpo", "finetune"), f"Unknown loss: {self.loss}.")
        _require(
            self.reduction in ("sum", "mean", "noise"), f"Unknown reduction: {self.reduction}."
        )
        _require(
            self.optimizer in ("scalar_adam", "adamw"), f"Unknown optimiser: {self.optimizer}."
        )
        _require(
            self.layers in ("attention", "attention_and_shortcuts"),
            f"Unknown layers: {self.layers}.",
        )
        _require(self.micro_batch_pairs <= self.batch_pairs, "The micro-batch must fit the batch.")

    def updates(self, picks: int) -> int:
        """How many updates a round over so many picks, of pairs or grids, takes (at least 1)."""
        return max(1, round(self.updates_base + self.updates_per_pick * picks))


OBJECTIVE_NAMES = ("diffusion_dpo", "d3po_balanced", "d3po", "finetune")

# What each objective is when it is chosen by name, the default first; d3po is arXiv 2311.13231 as
# its code was published. Betas of different objectives are in different units.
OBJECTIVES: dict[str, TrainingSettings] = {
    "diffusion_dpo": TrainingSettings(),
    "d3po_balanced": TrainingSettings(
        objective="d3po_balanced",
        loss="d3po",
        beta=100.0,
        optimizer="adamw",
        learning_rate=1e-3,
        timestep_fraction=1.0,
        layers="attention",
        shortcut_rate=1.0,
        target_shift=None,
        noise_draws_per_pair=UNBOUNDED,
        updates_per_pick=2.0,
        steps_per_pair=1,
    ),
    "d3po": TrainingSettings(
        objective="d3po",
        loss="d3po",
        reduction="mean",
        beta=0.1,
        clip_range=0.1,
        guided=True,
        optimizer="adamw",
        learning_rate=3e-5,
        timestep_fraction=1.0,
        layers="attention",
        shortcut_rate=1.0,
        target_shift=None,
        noise_draws_per_pair=UNBOUNDED,
        updates_base=0,
        updates_per_pick=1.0,
        batch_pairs=1,
        steps_per_pair=0,
        micro_batch_pairs=1,
    ),
}


# What artists do today, to measure against: a LoRA fine-tuned on the chosen pictures alone, with
# AdamW and all timesteps. The studio does not offer it.
BASELINES: dict[str, TrainingSettings] = {
    "finetune": TrainingSettings(
        objective="finetune",
        loss="finetune",
        optimizer="adamw",
        learning_rate=7e-4,
        timestep_fraction=1.0,
        layers="attention",
        shortcut_rate=1.0,
        target_shift=None,
        noise_draws_per_pair=UNBOUNDED,
        updates_per_pick=2.0,
    ),
}


_STRENGTH_SENTENCE = "The strength of a LoRA file lies between -2 and 2, and is not 0."


@dataclass(frozen=True)
class StartLora(_Stored):
    """Somebody's LoRA file, which is put into the base model before a session begins with it."""

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
class SessionSettings(_Stored):
    """Everything a session remembers of what the artist chose."""

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
    # Whose pictures are asked about: the base model's say most of a taste (studio/bench/LOG.md);
    # the newest LoRA's show what was learned so far, and more of what is rare.
    pairs_by: Literal["base", "newest"] = "base"
    start: StartLora | None = None  # a part of the base model, for policy and reference alike
    # Of the base model's weights, as they were when the session first used it; "" until then.
    model_hash: str = ""
    model_bytes: int = _within(
        0, 0, LARGEST_INTEGER, "The size of a model is a whole number from 0 upwards."
    )

    _before: ClassVar[dict[str, Any]] = {
        "pairs_by": "newest",
        "model_hash": "",
        "model_bytes": 0,
    }
    _nested: ClassVar[dict[str, type]] = {
        "start": StartLora,
        "sampling": SamplingSettings,
        "training": TrainingSettings,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.base_model.strip()), "Choose a base model first.")
        _require(
            max(len(self.base_model), len(self.model_hash)) <= MAX_PATH_CHARACTERS,
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

    @property
    def base(self) -> tuple[str, StartLora | None]:
        """All that the weights of the reference are made of."""
        return self.base_model, self.start

    @property
    def shown_prompts(self) -> tuple[str, ...]:
        """The fixed prompts that are drawn with the base model and again after every round."""
        return (self.preview_prompts or self.prompts)[:PREVIEW_PROMPTS]
