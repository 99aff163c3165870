"""Blending, resizing and merging of LoRA files, on models of every family."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from studio import models
from studio.__main__ import main
from studio.bench.families import make_pipeline, write_checkpoint
from studio.engine import sampling
from studio.lora import tools
from studio.lora.export import export_lora
from studio.lora.format import LoraError, LowRank, Precision
from studio.lora.format import read as read_lora
from studio.lora.fuse import fuse, layers
from studio.lora.merge import merge
from studio.lora.metadata import ExportInfo, Serialised
from studio.lora.names import text_spellings
from studio.lora.restate import NEEDED_TO_LOAD, WORDS, restate, thumbnail
from studio.lora.tools import Lora
from studio.models import Denoiser, ModelError
from studio.runtime.logs import log_path
from studio.settings import OBJECTIVES, SamplingSettings, StartLora

SETTINGS = SamplingSettings(steps=2, width_px=64, height_px=64, eta=0.0)


class Made:
    """A model of a family in both forms, and two LoRAs for it in both forms."""

    def __init__(self, family: str, root: Path) -> None:
        self.family, self.root = family, root
        pipeline = make_pipeline(family)
        pipeline.save_pretrained(root / "folder")
        self.file = write_checkpoint(root / "model.safetensors", pipeline, family)
        self.folder = root / "folder"
        self.denoiser = models.load(str(self.file), "cpu")
        info = ExportInfo(family, "made here", picks=0, trained_at_s=0.0)
        for name, rank, alpha in (("one", 2, 1.0), ("two", 3, 6.0)):
            wanted = replace(OBJECTIVES["diffusion_dpo"], rank=rank, alpha=alpha)
            self.denoiser.adapters.new(wanted)
            draw = torch.Generator().manual_seed(rank)
            with torch.no_grad():
                for parameter in self.denoiser.adapters.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=draw) / 3)
            export_lora(root, name, self.denoiser.adapters.state(), rank, alpha, info)
        self.denoiser.adapters.remove()

    @property
    def layers(self) -> tuple[str, dict, list[dict]]:
        """As `merge` is told of the model."""
        texts = [
            {name: tuple(weight.shape) for name, weight in layers(encoder)}
            for encoder in self.denoiser.text_encoders
        ]
        return self.family, self.denoiser.adapters.layer_shapes, texts

    def lora(self, name: str, form: str = "kohya") -> Path:
        return self.root / f"{name}{'' if form == 'kohya' else '-diffusers'}.safetensors"


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp(request.param))


def drawn(denoiser: Denoiser) -> torch.Tensor:
    return sampling.sample(denoiser, ["a red apple"], [1], SETTINGS)[0].latents[-1]


def weights(denoiser: Denoiser, path: Path, strength: float = 1.0) -> dict[str, torch.Tensor]:
    """What diffusers' own loader makes of a file: the change of every layer."""
    with denoiser.adapters.using_file(path):
        return {
            name: strength
            * module.scaling["guest"]
            * (
                module.lora_B["guest"].weight.flatten(1) @ module.lora_A["guest"].weight.flatten(1)
            ).detach()
            for name, module in denoiser.network.named_modules()
            if "guest" in getattr(module, "lora_A", {})
        }


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_a_blend_changes_a_model_as_both_together(made: Made, form: str, tmp_path: Path) -> None:
    paths = [made.lora(name, form) for name in ("one", "two")]
    blended = tools.blend([tools.read(path) for path in paths], [0.7, -0.4])
    assert blended.rank == 5
    out = tmp_path / "both.safetensors"
    tools.write(out, blended)
    one, two = (
        weights(made.denoiser, path, strength)
        for path, strength in zip(paths, (0.7, -0.4), strict=True)
    )
    found = weights(made.denoiser, out)
    assert found.keys() == one.keys() == two.keys()
    for name, change in found.items():
        torch.testing.assert_close(change, one[name] + two[name], rtol=1e-4, atol=1e-5)
    with safe_open(out, "pt") as file:
        said = file.metadata()
    assert said["modelspec.title"] == "both"
    assert said["modelspec.architecture"]
    if form == "kohya":
        assert (said["ss_network_dim"], said["ss_output_name"]) == ("5", "both")
    with pytest.raises(LoraError, match="already"):
        tools.write(out, blended)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_a_resized_lora_is_the_nearest_of_its_rank(
    made: Made, precision: Precision, tmp_path: Path
) -> None:
    given_ = tools.read(made.lora("two"))
    larger, kept = tools.resize(given_, 8)
    assert kept == pytest.approx(1.0)
    smaller, kept = tools.resize(given_, 2)
    assert 0.3 < kept < 1
    for name, module in given_.parts.items():
        torch.testing.assert_close(
            larger.parts[name].change(), module.change(), rtol=1e-4, atol=1e-5
        )
        values = torch.linalg.svdvals(module.change())
        left = (module.change() - smaller.parts[name].change()).norm()
        torch.testing.assert_close(left, values[2:].norm(), rtol=1e-3, atol=1e-4)
    tools.write(tmp_path / "small.safetensors", smaller, precision)
    assert len(weights(made.denoiser, tmp_path / "small.safetensors")) == len(given_.parts)
    for rank in (0, 5000):
        with pytest.raises(LoraError, match="lies between"):
            tools.resize(given_, rank)


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_merged_model_draws_what_the_model_draws_with_the_lora(
    made: Made, form: str, kind: str, tmp_path: Path
) -> None:
    model, out = getattr(made, kind), tmp_path / f"merged{'.safetensors' * (kind == 'file')}"
    count = merge(tools.read(made.lora("two", form)), 0.5, model, *made.layers, out)
    assert count == len(tools.read(made.lora("two")).parts)
    merged = models.load(str(out), "cpu")
    base = models.load(str(model), "cpu")
    with base.adapters.using_file(made.lora("two", form), 0.5):
        expected = drawn(base)
    torch.testing.assert_close(drawn(merged), expected, rtol=1e-3, atol=1e-3)
    assert (drawn(base) - expected).norm() > 0.01 * expected.norm()
    if kind == "file":
        before, after = load_file(model), load_file(out)
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert before.keys() == after.keys()
        assert len(changed) == count
    with pytest.raises(LoraError, match="already"):
        merge(tools.read(made.lora("two")), 1.0, model, *made.layers, out)


@pytest.mark.parametrize("kind", ["file", pytest.param("folder", marks=pytest.mark.nightly)])
def test_a_merged_model_is_the_model_with_the_lora_in_all_its_layers(
    made: Made, kind: str, tmp_path: Path
) -> None:
    """Convolutions and text encoders too, as `fuse` puts them into the loaded model."""
    model, out = getattr(made, kind), tmp_path / f"merged{'.safetensors' * (kind == 'file')}"
    base = models.load(str(model), "cpu")
    named = {f"lora_unet_{name.replace('.', '_')}": w for name, w in layers(base.network)}
    count = len(base.text_encoders)
    for number, encoder in enumerate(base.text_encoders, start=1):
        for name, weight in layers(encoder):
            if ".layers." in name:
                named[next(text_spellings(name, number, count))] = weight
    draw, tensors = torch.Generator().manual_seed(0), {}
    for name, weight in named.items():
        up = torch.randn((weight.shape[0], 2, *[1] * (weight.ndim - 2)), generator=draw)
        down = torch.randn((2, *weight.shape[1:]), generator=draw)
        tensors |= {f"{name}.lora_up.weight": up / 9, f"{name}.lora_down.weight": down / 9}
    save_file(tensors, tmp_path / "all.safetensors")
    lora = tools.read(tmp_path / "all.safetensors")
    assert merge(lora, 0.5, model, *made.layers, out) == len(named) > 50
    merged = models.load(str(out), "cpu")
    fused = fuse(read_lora(tmp_path / "all.safetensors"), 0.5, base.network, base.text_encoders)
    assert (fused.unet_layers + fused.text_layers, fused.strays) == (len(named), ())
    assert fused.text_layers >= 6 * count
    parts = [
        (base.network, merged.network),
        *zip(base.text_encoders, merged.text_encoders, strict=True),
    ]
    for expected, found in parts:
        for key, value in found.state_dict().items():
            torch.testing.assert_close(value, expected.state_dict()[key], rtol=1e-3, atol=1e-3)


def test_what_does_not_fit_is_said_and_nothing_is_written(made: Made, tmp_path: Path) -> None:
    one = tools.read(made.lora("one"))
    with pytest.raises(LoraError, match="of one format"):
        tools.blend([one, tools.read(made.lora("one", "diffusers"))], [1, 1])
    other = replace(one, metadata={"ss_base_model_version": "another"})
    with pytest.raises(LoraError, match="different kinds of model"):
        tools.blend([one, other], [1, 1])
    name, module = next(iter(one.parts.items()))
    wider = replace(one, parts={name: replace(module, up=torch.zeros(7, 2))}, metadata={})
    with pytest.raises(LoraError, match="different models"):
        tools.blend([one, wider], [1, 1])
    out = tmp_path / "merged.safetensors"
    text = replace(one, parts={"lora_te_text_model_x": module})
    for wrong, said in ((wider, "does not fit"), (text, "no layer lora_te_text_model_x")):
        with pytest.raises(LoraError, match=said):
            merge(wrong, 1.0, made.file, *made.layers, out)
    with pytest.raises(LoraError, match="too large"):
        merge(one, 1e39, made.file, *made.layers, out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"weight": torch.zeros(2)}, "is not a LoRA"),
        ({"a.lora_down.weight": torch.zeros(2, 4)}, "only one half"),
        (
            {
                "a.lora_down.weight": torch.zeros(2, 4),
                "a.lora_up.weight": torch.zeros(4, 2),
                "a.dora_scale": torch.zeros(1),
            },
            "is a DoRA",
        ),
        (
            {"a.lora_down.weight": torch.zeros(2, 4), "a.lora_up.weight": torch.zeros(4, 3)},
            "do not fit together",
        ),
        (
            {
                "a.lora_down.weight": torch.full((2, 4), float("nan")),
                "a.lora_up.weight": torch.zeros(4, 2),
            },
            "not numbers",
        ),
    ],
)
def test_files_that_are_no_plain_loras_get_a_sentence(tensors, said, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=said):
        tools.read(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"\x80\x04 pickle")
    with pytest.raises(ModelError, match="pickle"):
        tools.read(tmp_path / "x.safetensors")


ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_"
KOHYA = f"lora_unet_{ATTENTION.replace('.', '_')}"
TEXT = "encoder.layers.0.self_attn.q_proj"


def uneven(form: str, path: Path) -> dict[str, torch.Tensor]:
    """A LoRA of three layers of other ranks, one of them of the text encoder, each with an alpha of
    half its rank; gives what it adds to them."""
    names = {f"unet.{ATTENTION}q": 4, f"unet.{ATTENTION}k": 2, f"text_encoder.text_model.{TEXT}": 1}
    draw, tensors, said, changes = torch.Generator().manual_seed(1), {}, {}, {}
    for name, rank in names.items():
        width = 64 if name.startswith("text") else 32
        down, up = (torch.randn(size, generator=draw) for size in ((rank, width), (width, rank)))
        changes[name.partition(".")[2].removeprefix("text_model.")] = 0.5 * up @ down
        part, _, layer = name.partition(".")
        if form == "kohya":
            tag = {"unet": "lora_unet", "text_encoder": "lora_te"}[part]
            key = f"{tag}_{layer.replace('.', '_')}"
            tensors[f"{key}.alpha"] = torch.tensor(rank / 2)
            tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        else:
            tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
            said |= {f"{part}.r": 4, f"{part}.lora_alpha": rank / 2}
            said.setdefault(f"{part}.alpha_pattern", {})[layer] = rank / 2
    metadata = {} if form == "kohya" else {"lora_adapter_metadata": json.dumps(said)}
    save_file(tensors, path, metadata)
    return changes


def added(path: Path) -> dict[str, torch.Tensor]:
    """What `fuse` adds to the layers of a model."""
    pipeline = make_pipeline("sd1")
    modules = [pipeline.unet, pipeline.text_encoder]
    before = [{k: v.clone() for k, v in one.state_dict().items()} for one in modules]
    fuse(read_lora(path), 1.0, pipeline.unet, [pipeline.text_encoder])
    return {
        key.removesuffix(".weight").removeprefix("text_model."): value - old[key]
        for one, old in zip(modules, before, strict=True)
        for key, value in one.state_dict().items()
        if not torch.equal(value, old[key])
    }


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_every_tool_reads_a_file_with_text_encoder_and_uneven_ranks_alike(
    form: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    changes = uneven(form, path)
    read = tools.read(path)
    tools.write(tmp_path / "resized.safetensors", tools.resize(read, 6)[0])
    tools.write(tmp_path / "blended.safetensors", tools.blend([read, read], [0.25, 0.75]))
    for name in ("x", "resized", "blended"):
        found = added(tmp_path / f"{name}.safetensors")
        assert found.keys() == changes.keys()
        for layer, change in changes.items():
            torch.testing.assert_close(found[layer], change, rtol=1e-3, atol=1e-4)
    resized = tools.read(tmp_path / "resized.safetensors")
    assert {module.down.shape[0] for module in resized.parts.values()} == {6}


def test_generate_takes_what_start_takes(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "sd1.safetensors", make_pipeline("sd1"), "sd1")
    path = tmp_path / "x.safetensors"
    uneven("kohya", path)
    started = models.load(str(model), "cpu", start=StartLora(str(path)))
    command = ["generate", "a red apple", "--model", str(model), "--device", "cpu", "--seed", "3"]
    command += ["--steps", "2", "--size", "64x64", "--lora", str(path), "--out", str(tmp_path)]
    assert main(["--home", str(tmp_path / "home"), *command]) == 0
    [picture] = tmp_path.glob("*.png")
    settings_ = SamplingSettings(steps=2, width_px=64, height_px=64, seed=3)
    [expected] = sampling.images(started, sampling.sample(started, ["a red apple"], [3], settings_))
    with PIL.Image.open(picture) as found:
        assert found.tobytes() == expected.tobytes()
    tensors = load_file(path)
    tensors[f"{KOHYA}q.dora_scale"] = torch.ones(1, 32)
    save_file(tensors, path)
    assert main(["--home", str(tmp_path / "home"), *command]) == 1


# What a tool may have written there that did not know better.
SAID = [
    {"ss_network_dim": 4, "a": "b"},
    {"ss_steps": 1.5},
    {"ss_loss": float("nan")},
    {"ss_tag_frequency": {"a": {"b": 1}}},
    {"ss_v2": None},
    {"ss_output_name": "\ud800"},
    ["a"],
    3,
]


@pytest.mark.parametrize("said", SAID, ids=str)
@pytest.mark.parametrize("action", ["strip", "edit"])
def test_words_that_break_the_format_are_named_and_cleaned(
    said: object, action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "x.safetensors", tmp_path / "clean.safetensors"
    changes = uneven("kohya", path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length]) | {"__metadata__": said}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    model = tmp_path / "model.safetensors"
    model.write_bytes(path.read_bytes())
    tries = [
        lambda: tools.read(path),
        lambda: read_lora(path),
        lambda: models.load(str(model), "cpu"),
        lambda: models.load("starter", "cpu", start=StartLora(str(path))),
    ]
    for attempt in tries:
        with pytest.raises(ModelError, match=r"metadata breaks the format"):
            attempt()
    words = ["--title", "mine"] if action == "edit" else []
    home = tmp_path / "home"
    assert main(["--home", str(home), "lora", action, str(path), "--out", str(out), *words]) == 0
    assert body(out) == body(path)
    assert added(out).keys() == changes.keys()


def test_what_a_lora_command_could_not_do_is_in_the_log(tmp_path: Path) -> None:
    path, home = tmp_path / "x.safetensors", tmp_path / "home"
    path.write_bytes((4).to_bytes(8, "little") + b"{{{{")
    command = ["lora", "resize", str(path), "--rank", "2", "--out", str(tmp_path / "y.safetensors")]
    assert main(["--home", str(home), *command]) == 1
    assert "JSONDecodeError" in log_path(home, "command").read_text("utf-8")


sizes = st.integers(1, 6)


@settings(max_examples=60, deadline=None)
@given(rank=sizes, width=sizes, height=sizes, wanted=sizes, alpha=st.floats(0.1, 10), conv=sizes)
def test_any_module_can_be_resized(rank, width, height, wanted, alpha, conv):
    draw = torch.Generator().manual_seed(rank)
    kernel = (3, 3) if conv > 3 else ()
    module = LowRank(
        torch.randn(rank, width, *kernel, generator=draw),
        torch.randn(height, rank, *((1, 1) if kernel else ()), generator=draw),
        alpha,
    )
    made, kept = tools.resize(Lora("kohya", {"a": module}, {}), wanted)
    found = made.parts["a"]
    assert found.down.shape == (wanted, width, *kernel)
    assert found.up.shape[:2] == (height, wanted)
    whole = module.change().norm()
    assert (found.change() - module.change()).norm() <= ((1 - kept**2) ** 0.5 + 1e-3) * whole + 1e-5


# --- what a file says of itself ------------------------------------------------------------------


def said_by(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def body(path: Path) -> bytes:
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_other_words_leave_the_tensors_as_they_are(made: Made, form: str, tmp_path: Path) -> None:
    source = made.lora("one", form)
    # under its own name and with nothing changed it is the export, hashes and all
    again = tmp_path / "again" / source.name
    assert restate(source, again, {}) == said_by(again) == said_by(source)
    words = {"title": "Täglich „blau“", "trigger_phrase": "bluish", "license": "CC0-1.0"}
    out = tmp_path / "other.safetensors"
    said = restate(source, out, words | {"description": ""})
    assert said == said_by(out)
    assert body(out) == body(source)
    assert {key: said[f"modelspec.{key}"] for key in words} == words
    assert "modelspec.description" not in said
    body_hash = hashlib.sha256(body(out)).hexdigest()
    assert said["modelspec.hash_sha256"] == f"0x{body_hash}"
    if form == "kohya":
        assert (said["ss_output_name"], said["sshs_model_hash"]) == ("other", body_hash)
        training = {key: value for key, value in said.items() if key.startswith("ss_")}
        window = save(load_file(out), training)[0x100000:0x110000]
        assert said["sshs_legacy_hash"] == hashlib.sha256(window).hexdigest()[:8]
    applied = weights(made.denoiser, out)
    assert all(torch.equal(applied[k], v) for k, v in weights(made.denoiser, source).items())
    with pytest.raises(LoraError, match="already"):
        restate(source, out, words)


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_a_stripped_file_says_only_what_loads_it(made: Made, form: str, tmp_path: Path) -> None:
    source, out = made.lora("one", form), tmp_path / "bare.safetensors"
    said = restate(source, out, {}, strip=True)
    assert body(out) == body(source)
    assert said["modelspec.title"] == "bare"
    own = {"modelspec.title", "modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash"}
    assert said.keys() <= {*NEEDED_TO_LOAD, *own, "ss_output_name"}
    assert "made here" not in json.dumps(said)  # the name of the model
    applied = weights(made.denoiser, out)  # alpha is not the rank: a header that is lost is seen
    assert all(torch.equal(applied[k], v) for k, v in weights(made.denoiser, source).items())


@given(
    st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=4),
    st.dictionaries(st.sampled_from(WORDS), st.text(max_size=9)),
    st.booleans(),
)
def test_whatever_is_said_the_tensors_are_the_same(metadata, words, strip) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "x.safetensors"), Path(folder, "y.safetensors")
        tensors = {"a.hada_w1_a": torch.arange(3.0), "b": torch.arange(5, dtype=torch.int8)}
        save_file(tensors, source, metadata)
        said = restate(source, out, words, strip=strip)
        assert body(out) == body(source)
        assert said_by(out) == said
        for key, value in words.items():
            if value:
                assert said[f"modelspec.{key}"] == value


def test_what_cannot_be_restated_gets_a_sentence(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    out = tmp_path / "y.safetensors"
    with pytest.raises(LoraError, match="is not a LoRA"):
        restate(tmp_path / "x.safetensors", out, {})
    (tmp_path / "x.safetensors").write_bytes(b"<!doctype html>")
    with pytest.raises(ModelError, match="is a web page"):
        restate(tmp_path / "x.safetensors", out, {})
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(LoraError, match="is not a readable picture"):
        thumbnail(tmp_path / "x.png")
    assert not out.exists()


def test_a_thumbnail_is_small(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (900, 600), "teal").save(tmp_path / "x.png")
    kind, _, data = thumbnail(tmp_path / "x.png").partition(",")
    assert kind == "data:image/jpeg;base64"
    with PIL.Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (256, 171)


# --- files of very many layers ---


def of_layers(count: int, path: Path, form: str = "kohya") -> Path:
    """A LoRA of so many tiny layers, each with an alpha of its own."""
    tensors, alphas = {}, {}
    for number in range(count):
        down, up = torch.full((1, 2), 1.0 + number), torch.ones(3, 1)
        layer = f"down_blocks.{number}.attn"
        if form == "kohya":
            key = f"lora_unet_{layer.replace('.', '_')}"
            tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
            tensors[f"{key}.alpha"] = torch.tensor(0.5)
        else:
            tensors |= {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}
            alphas[layer] = 0.5
    said = {"lora_adapter_metadata": json.dumps({"unet.alpha_pattern": alphas})} if alphas else {}
    save_file(tensors, path, said)
    return path


def lines_of(work: Callable[[], object]) -> int:
    """How many lines of Python `work` runs, whoever wrote them."""
    lines = 0

    def count(frame: object, event: str, _: object) -> Callable[..., object]:
        nonlocal lines
        lines += event == "line"
        return count

    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(None)
    return lines


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
@pytest.mark.parametrize("command", ["blend", "resize"])
def test_work_grows_no_faster_than_the_layers(form: str, command: str, tmp_path: Path) -> None:
    def work(count: int) -> int:
        path = of_layers(count, tmp_path / f"{form}-{count}.safetensors", form)
        out = tmp_path / f"{command}-{form}-{count}.safetensors"

        def run() -> None:
            lora = tools.read(path)
            made = tools.blend([lora, lora], [1, 1]) if command == "blend" else None
            tools.write(out, made or tools.resize(lora, 1)[0])

        return lines_of(run)

    work(10)  # what is only done once
    some, more = work(100), work(400)
    assert more < 4.4 * some


def test_a_file_is_serialised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that writing does with a tensor, this takes the longest."""
    lora = tools.read(of_layers(20, tmp_path / "many.safetensors"))
    tensors, serialise = [], safetensors.torch.save

    def counted(given: dict[str, torch.Tensor], *others: object) -> bytes:
        tensors.extend(given)
        return serialise(given, *others)

    monkeypatch.setattr(safetensors.torch, "save", counted)
    tools.write(tmp_path / "again.safetensors", lora)
    assert len(tensors) == 3 * 20


@pytest.mark.parametrize("count", [3, 9000])  # the header ends before the old hash's window, or in
def test_a_file_is_to_the_byte_as_the_library_writes_it(count: int) -> None:
    tensors = {f"layer {number} “é”\n": torch.full((8,), float(number)) for number in range(count)}
    tensors["large"] = torch.arange(300_000).float()
    made, said = Serialised(tensors), {"ss_note": 'a "word" \\ – 猫\x1f\x7f'}
    whole = save(tensors, said)
    assert made.content(said) == whole
    hashes = made.sd_scripts_hashes(said | {"modelspec.title": "x"})
    assert hashes["sshs_legacy_hash"] == hashlib.sha256(whole[0x100000:0x110000]).hexdigest()[:8]
    body = whole[8 + int.from_bytes(whole[:8], "little") :]
    assert hashes["sshs_model_hash"] == made.sha256 == hashlib.sha256(body).hexdigest()


def test_an_embedding_in_a_lora_is_named_where_its_word_would_be_lost(tmp_path: Path) -> None:
    path = of_layers(1, tmp_path / "one.safetensors")
    save_file(load_file(path) | {"bundle_emb.my-cat.string_to_param.*": torch.ones(2, 4)}, path)
    with pytest.raises(LoraError, match="bundles the embedding “my-cat”"):
        tools.read(path)


def test_small_matrices_are_taken_apart_on_one_thread(tmp_path, monkeypatch) -> None:
    threads, svd = [], torch.linalg.svd

    def seen(*args: object) -> object:
        threads.append(torch.get_num_threads())
        return svd(*args)

    monkeypatch.setattr(torch.linalg, "svd", seen)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        tools.resize(tools.read(of_layers(3, tmp_path / "many.safetensors")), 1)
        assert threads == [1, 1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_strengths_that_are_too_much_for_the_numbers_are_a_sentence():
    part = LowRank(torch.ones(1, 2), torch.full((2, 1), 3e38), 1.0)
    with pytest.raises(LoraError, match=r"At these strengths unet\.a is too large"):
        tools.summed([("unet.a", part, 2.0)])
    assert tools.summed([("unet.a", part, -1.0)])["unet.a"].change().isfinite().all()
