"""Somebody's LoRA in the weights of a model: as diffusers' own loader puts it there."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from studio import models
from studio.bench.families import FAMILIES, make_pipeline, unet_tensors, write_checkpoint
from studio.engine import sampling
from studio.files import ADAPTER_FILE
from studio.lora import fuse, names
from studio.lora.format import DIFFUSERS_HEADER
from studio.lora.format import read as read_lora
from studio.models import ModelError
from studio.settings import OBJECTIVES, SamplingSettings, SettingsError, StartLora

RANK, ALPHA, STRENGTH = 3, 1.5, 0.8
DOWN = ("lora_down.weight", "lora_A.weight", "_lora.down.weight")
SETTINGS = SamplingSettings(steps=2, width_px=64, height_px=64, eta=0.0)
# Of the UNet; convolutions are what LoCon adds to a LoRA.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "net.0.proj", "net.2")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv")


class Made:
    """A model of a family as a file, and LoRAs for it under the names of several trainers."""

    def __init__(self, family: str, root: Path) -> None:
        self.family, self.root = family, root
        self.pipeline = make_pipeline(family)
        self.folder = root / "folder"
        self.pipeline.save_pretrained(self.folder)
        self.file = write_checkpoint(root / f"{family}.safetensors", self.pipeline, family)
        unet = self.pipeline.unet
        self.texts = [self.pipeline.text_encoder]
        if family == "sdxl":
            self.texts.append(self.pipeline.text_encoder_2)
        # written by hand in the benchmarks, and so by another one than the studio's own
        keys = zip(unet.state_dict(), unet_tensors(unet), strict=True)
        self.original = {
            one.removesuffix(".weight"): two.removesuffix(".weight") for one, two in keys
        }

    def layers(self, ends: tuple[str, ...]) -> dict[str, nn.Module]:
        return {
            name: layer
            for name, layer in self.pipeline.unet.named_modules()
            if name.endswith(ends) and isinstance(layer, nn.Linear | nn.Conv2d)
        }

    def text_layers(self, number: int) -> dict[str, nn.Module]:
        return {
            name.removeprefix("text_model."): layer
            for name, layer in self.texts[number].named_modules()
            if isinstance(layer, nn.Linear) and "encoder.layers." in name
        }

    def write(self, form: str, ends: tuple[str, ...] = ATTENTION) -> Path:
        """A LoRA of UNet and text encoders."""
        path = self.root / f"{form}-{len(ends)}.safetensors"
        is_xl, metadata, tensors = self.family == "sdxl", None, {}

        def add(name: str, layer: nn.Module, old: str = "") -> None:
            down, up = halves(layer, seed=len(tensors))
            if form.startswith("kohya"):
                name = name.replace(".", "_")
                tensors[f"{name}.lora_down.weight"] = down
                tensors[f"{name}.lora_up.weight"] = up
                tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
            elif form == "peft":
                tensors[f"{name}.lora_A.weight"] = down
                tensors[f"{name}.lora_B.weight"] = up
            else:
                tensors[f"{old}_lora.down.weight"] = down
                tensors[f"{old}_lora.up.weight"] = up

        for name, layer in self.layers(ends).items():
            where = self.original[name] if form == "kohya-original" else name
            stem, _, end = name.removesuffix(".0").rpartition(".")
            add(
                ("lora_unet." if "kohya" in form else "unet.") + where,
                layer,
                f"unet.{stem}.processor.{end}",
            )
        for number in range(len(self.texts)):
            tag = f"lora_te{number + 1}" if is_xl else "lora_te"
            place = "text_encoder_2" if number else "text_encoder"
            if form == "old":
                break
            for name, layer in self.text_layers(number).items():
                add(f"{tag if 'kohya' in form else place}.text_model.{name}", layer)
        if form == "peft":
            targets = {"unet": list(self.layers(ends))}
            for number, encoder in enumerate(self.texts):
                own = [name for name, one in encoder.named_modules() if isinstance(one, nn.Linear)]
                targets[f"text_encoder{'_2' * number}"] = [n for n in own if "layers." in n]
            said = {}
            for part, names in targets.items():
                own = {"r": RANK, "lora_alpha": ALPHA, "target_modules": names}
                said |= {f"{part}.{key}": value for key, value in own.items()}
            metadata = {"format": "pt", DIFFUSERS_HEADER: json.dumps(said)}
        save_file(tensors, path, metadata)
        return path


def halves(layer: nn.Module, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    out, *rest = layer.weight.shape
    down = torch.randn(RANK, *rest, generator=draw) / math.sqrt(math.prod(rest))
    up = torch.randn(out, RANK, *([1] * (len(rest) - 1)), generator=draw)
    return down, up


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp(request.param))


FORMS = ["kohya", "kohya-original", "peft", "old"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", ["attention", "convolutions"])
def test_it_is_what_diffusers_makes_of_the_file(made: Made, form: str, where: str) -> None:
    if form == "old" and where == "convolutions":
        pytest.skip("there were none then")
    if form == "kohya-original" and made.family != "sdxl":
        pytest.skip("diffusers does not read such names")
    if form == "kohya" and made.family == "sdxl" and where == "convolutions":
        pytest.skip("diffusers does not read such names")
    ends = (
        CONVOLUTIONS if where == "convolutions" else ATTENTION[:4] if form == "old" else ATTENTION
    )
    path = made.write(form, ends)
    denoiser = models.load(str(made.folder), "cpu", start=StartLora(str(path), STRENGTH))
    pipeline = make_pipeline(made.family)
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    pipeline.fuse_lora(lora_scale=STRENGTH)
    pipeline.unload_lora_weights()
    expected = [pipeline.unet, pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)]
    found = [denoiser.network, *denoiser.text_encoders]
    changed = 0
    for mine, theirs in zip(found, filter(None, expected), strict=True):
        base = [made.pipeline.unet, *made.texts][found.index(mine)].state_dict()
        wanted = theirs.state_dict()
        assert mine.state_dict().keys() == wanted.keys()
        for key, weight in mine.state_dict().items():
            torch.testing.assert_close(weight, wanted[key], rtol=1e-5, atol=1e-6, msg=key)
            changed += not torch.equal(base[key], weight)
    assert denoiser.start is not None
    halves_in_file = sum(key.endswith(DOWN) for key in load_file(path))
    assert changed == denoiser.start.unet_layers + denoiser.start.text_layers == halves_in_file
    assert denoiser.start.strays == ()


def test_original_names_are_read_for_every_family(made: Made) -> None:
    every = (*ATTENTION, *CONVOLUTIONS, "upsamplers.0.conv")
    one, two = (
        models.load(str(made.file), "cpu", start=StartLora(str(made.write(form, every))))
        for form in ("kohya", "kohya-original")
    )
    assert one.base_hash != two.base_hash
    for key, weight in one.network.state_dict().items():
        assert torch.equal(weight, two.network.state_dict()[key]), key
    assert one.start.unet_layers == two.start.unet_layers == len(made.layers(every))


def test_every_layer_is_known_by_its_original_name(made: Made) -> None:
    for name, _ in fuse.layers(made.pipeline.unet):
        assert made.original[name] in names.original_names(name)


def test_the_reference_has_it_and_a_lora_for_now_leaves_no_trace(made: Made) -> None:
    path = made.write("kohya-original" if made.family == "sdxl" else "kohya")
    started = models.load(str(made.file), "cpu", start=StartLora(str(path), STRENGTH))
    plain = models.load(str(made.file), "cpu")
    before = {key: value.clone() for key, value in plain.network.state_dict().items()}

    def drawn(denoiser: models.Denoiser) -> Tensor:
        return sampling.sample(denoiser, ["a red apple"], [1], SETTINGS)[0].latents[-1]

    base, wanted = drawn(plain), drawn(started)
    assert (base - wanted).norm() > 1e-2 * base.norm()
    started.adapters.new(replace(OBJECTIVES["diffusion_dpo"], rank=2))
    with started.adapters.off():
        assert torch.equal(drawn(started), wanted)
    plain.adapters.new(replace(OBJECTIVES["diffusion_dpo"], rank=2))
    for parameter in plain.adapters.parameters():  # one that must not be seen beside the other
        nn.init.normal_(parameter, std=0.1)
    tuned = drawn(plain)
    base_hash = plain.base_hash
    with plain.with_lora(read_lora(path), STRENGTH):
        assert torch.equal(drawn(plain), wanted)
        assert plain.base_hash == started.base_hash != base_hash
        assert plain.fit(read_lora(path)) == replace(started.start, strength=1.0)
    assert plain.base_hash == base_hash
    assert torch.equal(drawn(plain), tuned)
    plain.adapters.remove()
    after = {k.replace(".base_layer", ""): v for k, v in plain.network.state_dict().items()}
    assert all(torch.equal(before[key], value) for key, value in after.items())
    assert torch.equal(drawn(plain), base)


# --- what files say, and what is wrong with some -------------------------------------------------


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made("sd1", tmp_path_factory.mktemp("sd1"))


LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def lora(down: Tensor, up: Tensor, name: str = KOHYA, **more: Tensor) -> dict[str, Tensor]:
    return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up} | {
        f"{name}.{key}": value for key, value in more.items()
    }


def in_place(sd1: Made, path: Path, strength: float = 1.0) -> tuple[fuse.Fused, Tensor]:
    """How a file fits, and what it adds to one layer."""
    unet = make_pipeline("sd1").unet
    layer = unet.get_submodule(LAYER)
    before = layer.weight.detach().clone()
    fused = fuse.fuse(read_lora(path), strength, unet, sd1.texts)
    return fused, layer.weight.detach() - before


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.floats(0.1, 16), st.floats(-2, 2).filter(bool))
def test_alpha_and_strength_are_honoured(sd1: Made, rank: int, alpha: float, strength: float):
    draw = torch.Generator().manual_seed(rank)
    down, up = torch.randn(rank, 32, generator=draw), torch.randn(32, rank, generator=draw)
    path = sd1.root / "one.safetensors"
    save_file(lora(down, up, alpha=torch.tensor(alpha)), path)
    _, change = in_place(sd1, path, strength)
    expected = strength * alpha / rank * (up @ down)
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("said", "scale"),
    [
        ({}, 1.0),
        ({"lora_alpha": 8}, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 2}}, 0.5),
        ({"lora_alpha": 8, "alpha_pattern": {"attn2.to_q": 2}}, 2.0),
        ({"lora_alpha": 8, "alpha_pattern": {"q": 2, "n1.to_q": 2, LAYER: 4}}, 1.0),
        ({"alpha_pattern": {"to_q": 2, "attn1.to_q": 4}}, 0.5),  # the first that fits
        ({"alpha_pattern": {}}, 1.0),
        ({"alpha_pattern": None}, 1.0),
    ],
)
@pytest.mark.parametrize("form", ["header", "beside"])
def test_what_peft_says_of_the_scale(sd1: Made, form: str, said: dict, scale: float, tmp_path):
    down, up = torch.ones(4, 32), torch.full((32, 4), 0.01)
    if form == "header":
        path, prefix = tmp_path / "x.safetensors", "unet."
        metadata = {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in said.items()})}
    else:
        path, prefix, metadata = tmp_path / ADAPTER_FILE, "base_model.model.", None
        path.with_name("adapter_config.json").write_text(json.dumps(said))
    names = {f"{prefix}{LAYER}.lora_A.weight": down, f"{prefix}{LAYER}.lora_B.weight": up}
    save_file(names, path, metadata)
    _, change = in_place(sd1, path)
    torch.testing.assert_close(change, scale * (up @ down), rtol=1e-4, atol=1e-6)
    if form == "beside":
        one = read_lora(path).sha256
        path.with_name("adapter_config.json").write_text(json.dumps(said | {"lora_alpha": 3}))
        assert read_lora(path).sha256 != one


def test_what_fits_nothing_is_counted_and_said(sd1: Made, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = lora(torch.ones(2, 32), torch.ones(32, 2))
    tensors |= lora(torch.ones(2, 32), torch.ones(32, 2), name="lora_te_elsewhere")
    tensors |= {"bundle_emb.x.string_to_param": torch.ones(2), "y.alpha": torch.ones(())}
    save_file(tensors, path)
    fused, _ = in_place(sd1, path)
    assert (fused.unet_layers, fused.text_layers, len(fused.strays)) == (1, 0, 3)
    assert fused.words == (
        "1 layer of the image network, rank 2. Its embeddings are not used: “x”. For their "
        "words, save each embedding as a file in the folder embeddings beside the model. 3 of "
        "its 4 parts fit nothing in this model and are left out, such as "
        "bundle_emb.x.string_to_param."
    )


two, up_two = torch.zeros(2, 32), torch.zeros(32, 2)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({f"{KOHYA}.dora_scale": two} | lora(two, up_two), "is a DoRA, which cannot"),
        ({f"{KOHYA}.hada_w1_a": two, f"{KOHYA}.hada_w1_b": two}, "is a LoHa"),
        ({f"{KOHYA}.lokr_w1": two}, "is a LoKr"),
        ({f"{KOHYA}.lora_mid.weight": two} | lora(two, up_two), "is a LoCon with a middle"),
        ({f"{KOHYA}.oft_blocks": two}, "is an OFT"),
        ({f"{KOHYA}.diff": two}, "is a difference of whole weights"),
        ({f"{KOHYA}.a1.weight": two}, "is a GLoRA"),
        ({f"{KOHYA}.on_input": two, f"{KOHYA}.weight": two}, "is an IA3"),
        ({"unet.x.lora_B.bias": two}, "is a LoRA with biases"),
        ({"weight": two}, "is not a LoRA"),
        ({f"{KOHYA}.alpha": torch.ones(())}, "is not a LoRA"),
        ({f"{KOHYA}.lora_down.weight": two}, "only one half"),
        (lora(two, torch.zeros(32, 3)), "do not fit together"),
        (lora(two, torch.zeros(32, 2, 3, 3)), "not a plain LoRA"),
        (lora(two[0], up_two), "do not fit together"),
        (lora(torch.zeros(0, 32), torch.zeros(32, 0)), "do not fit together"),
        (lora(two, up_two + math.nan), "not numbers"),
        (lora(two, up_two, alpha=torch.tensor(math.inf)), "not numbers"),
        (lora(two, up_two, alpha=two), "not numbers"),
        (lora(torch.zeros(2, 64), up_two), "made for another kind of model: lora_unet_down"),
        (lora(two, up_two, name="lora_unet_joint_blocks_0"), "nothing in it fits"),
        (lora(two + 1e30, up_two + 1e30), "too strong for the numbers"),
    ],
)
def test_a_file_that_cannot_be_used_gets_a_sentence(tensors, said, sd1: Made, tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_file({key: value.clone() for key, value in tensors.items()}, path)
    with pytest.raises(ModelError, match=said):
        models.load(str(sd1.file), "cpu", start=StartLora(str(path)))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("{", "damaged"),
        ("[1]", "damaged"),
        ('{"unet.alpha_pattern": {"(a+)+$": 1}}', "damaged"),  # would be searched for ever
        ('{"unet.alpha_pattern": [[1]]}', "damaged"),
        ('{"unet.alpha_pattern": ["to_q"]}', "damaged"),
        ('{"unet.alpha_pattern": {"to_q": {}}}', "not numbers"),
        ("[]", "damaged"),
        ("null", "damaged"),
        ("{}" * 2, "damaged"),
        ('{"unet.lora_alpha": "x"}', "not numbers"),
        ('{"unet.use_dora": true}', "is a DoRA"),
    ],
)
def test_a_header_that_cannot_be_used_gets_a_sentence(header, said, tmp_path: Path) -> None:
    names = {f"unet.{LAYER}.lora_A.weight": two, f"unet.{LAYER}.lora_B.weight": up_two}
    save_file(names, tmp_path / "x.safetensors", {"lora_adapter_metadata": header})
    with pytest.raises(ModelError, match=said):
        read_lora(tmp_path / "x.safetensors")


def test_other_files_get_a_sentence(sd1: Made, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"\x80\x04 pickle")
    (tmp_path / "y.safetensors").write_bytes(b"\x80\x04 pickle")
    (tmp_path / ADAPTER_FILE).write_bytes((sd1.write("kohya")).read_bytes())
    for path, said in (
        (tmp_path / "x.pt", "is not a .safetensors file"),
        (tmp_path / "y.safetensors", "a Python pickle under another name"),
        (tmp_path / "none.safetensors", "is missing from"),
        (tmp_path / ADAPTER_FILE, "adapter_config.json, which holds the strength"),
        (sd1.file, "is not a LoRA"),
    ):
        with pytest.raises(ModelError, match=said):
            read_lora(path)


@pytest.mark.parametrize("strength", [0.0, 2.1, -3.0, math.nan])
def test_a_strength_that_makes_no_sense_is_a_sentence(strength: float) -> None:
    with pytest.raises(SettingsError, match="between -2 and 2"):
        StartLora("x.safetensors", strength)
    with pytest.raises(SettingsError, match="path of a LoRA"):
        StartLora(" ")
