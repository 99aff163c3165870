"""The exported files do what the adapter does, and a file that does not is never called done."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image

from studio import weights
from studio.families import UNET_LAYERS
from studio.lora import export
from studio.lora import format as lora_format
from studio.lora.export import check, export_lora, file_name
from studio.lora.format import DIFFUSERS_HEADER, FORMATS, LoraError, from_peft
from studio.lora.metadata import ExportInfo, Serialised
from studio.lora.names import kohya_name

RANK, ALPHA = 4, 2.0  # not equal, so that a lost alpha shows

INFO = ExportInfo(
    family="sd1",
    base_model="the starter model",
    picks=48,
    trained_at_s=1_800_000_000.0,
    base_hash="abc",
    prediction_type="v_prediction",
    width_px=128,
    height_px=128,
    trigger="in my taste",
    strength=0.8,
    licence="CC BY 4.0",
    author="Ada",
    notes="Draws blue backgrounds.",
)


class XLPipeline(StableDiffusionXLLoraLoaderMixin):
    """As much of an SDXL pipeline as `load_lora_weights` needs."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet
        self.text_encoder = self.text_encoder_2 = self.hf_device_map = None
        self.components = {"unet": unet}


def add_adapter(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """An adapter that changes something, as a trained one does; gives peft's state of it."""
    unet.add_adapter(
        LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules=list(UNET_LAYERS["attention_and_shortcuts"])
        )
    )
    torch.manual_seed(1)
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return get_peft_model_state_dict(unet)


@torch.no_grad()
def outputs(unet: UNet2DConditionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 5, 16, generator=generator)
    return unet(latents, torch.tensor([10, 500]), text).sample


@pytest.fixture(scope="module")
def tuned(tiny_model: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """The adapter's state, what the base gives, and what base and adapter give."""
    unet = StableDiffusionPipeline.from_pretrained(tiny_model).unet
    base = outputs(unet)
    state = add_adapter(unet)
    return state, base, outputs(unet)


@pytest.fixture
def exported(tuned, tmp_path: Path) -> export.ExportReport:
    picture = Image.new("RGB", (512, 384), "blue")
    return export_lora(tmp_path / "out", "My taste", tuned[0], RANK, ALPHA, INFO, FORMATS, picture)


def by_form(report: export.ExportReport) -> dict[str, Path]:
    folder = report.files[0].parent
    return {form: folder / f"{report.name}{export.ENDINGS[form]}" for form in FORMATS}


@pytest.mark.parametrize("form", FORMATS)
def test_diffusers_loads_both_files_to_the_same_model(form, tuned, exported, tiny_model):
    _, base, expected = tuned
    path = by_form(exported)[form]
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model)
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    found = outputs(pipeline.unet)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (expected - base).abs().max() > 0.05  # or the comparison would say nothing


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_reads_back_to_the_same_weights(form, tuned, exported):
    modules = lora_format.read(by_form(exported)[form]).parts
    adapter = from_peft(tuned[0], RANK, ALPHA)
    assert len(modules) == len(adapter)
    for name, module in adapter.items():
        found = modules[kohya_name(name, "sd1") if form == "kohya" else f"unet.{name}"]
        assert torch.equal(found.down, module.down)
        assert torch.equal(found.up, module.up)
        assert found.alpha == ALPHA


def test_peft_s_saved_form_is_taken_as_well(tuned, tmp_path):
    prefixed = {f"base_model.model.{key}": tensor for key, tensor in tuned[0].items()}
    one = export_lora(tmp_path / "one", "x", tuned[0], RANK, ALPHA, INFO)
    two = export_lora(tmp_path / "two", "x", prefixed, RANK, ALPHA, INFO)
    assert [f.name for f in one.files] == [f.name for f in two.files]
    assert one.checks == two.checks  # the hashes of the content among them


def make_sdxl_unet() -> UNet2DConditionModel:
    """A small UNet with the block structure of SDXL."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 2),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=4,
        use_linear_projection=True,
    ).eval()


def test_sdxl_files_are_read_by_diffusers_under_the_original_names(tmp_path):
    tuned = make_sdxl_unet()
    state = add_adapter(tuned)
    info = ExportInfo("sdxl", "SDXL", picks=1, trained_at_s=0.0)
    export_lora(tmp_path, "xl", state, RANK, ALPHA, info, ("kohya",))
    modules = lora_format.read(tmp_path / "xl.safetensors").parts
    assert all("_blocks_" in name or "middle_block_" in name for name in modules)
    assert not any("attentions" in name or "resnets" in name for name in modules)
    assert any("skip_connection" in name for name in modules)
    unet = make_sdxl_unet()
    XLPipeline(unet).load_lora_weights(str(tmp_path), weight_name="xl.safetensors")
    torch.testing.assert_close(outputs(unet), outputs(tuned), rtol=1e-5, atol=1e-5)
    assert (outputs(make_sdxl_unet()) - outputs(tuned)).abs().max() > 0.05


def test_sdxl_names():
    names = {
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks_4_1_",
        "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k": "input_blocks_8_1_",
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": "middle_block_1_",
        "up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "output_blocks_0_1_",
        "up_blocks.1.attentions.2.transformer_blocks.1.attn1.to_out.0": "output_blocks_5_1_",
    }
    shortcuts = {
        "down_blocks.1.resnets.0": "input_blocks_4_0",
        "down_blocks.2.resnets.0": "input_blocks_7_0",
        "up_blocks.0.resnets.2": "output_blocks_2_0",
        "up_blocks.2.resnets.1": "output_blocks_7_0",
    }
    for block, start in shortcuts.items():
        name = kohya_name(f"{block}.conv_shortcut", "sdxl")
        assert name == f"lora_unet_{start}_skip_connection"
    for module, start in names.items():
        rest = module[module.index("transformer") :].replace(".", "_")
        assert kohya_name(module, "sdxl") == f"lora_unet_{start}{rest}"
    others = {
        "time_embedding.linear_1": "lora_unet_time_embed_0",
        "down_blocks.1.resnets.0.conv1": "lora_unet_input_blocks_4_0_in_layers_2",
        "up_blocks.0.upsamplers.0.conv": "lora_unet_output_blocks_2_2_conv",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1": (
            "lora_te1_text_model_encoder_layers_0_mlp_fc1"
        ),
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1": (
            "lora_te2_text_model_encoder_layers_0_mlp_fc1"
        ),
    }
    assert {layer: kohya_name(layer, "sdxl") for layer in others} == others
    name = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
    assert kohya_name(name, "sd1") == "lora_te_text_model_encoder_layers_0_mlp_fc1"
    with pytest.raises(LoraError, match="not a layer of a supported UNet"):
        kohya_name("down_blocks.1.something", "sdxl")


# --- the check must catch what readers do not notice ---------------------------------------------


def corrupted(path: Path, change) -> Path:
    """`path` with its tensors and metadata changed; the hash is made good again."""
    data = path.read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + header_bytes])["__metadata__"]
    tensors = safetensors.torch.load(data)
    tensors = change(tensors, metadata) or tensors
    metadata["modelspec.hash_sha256"] = f"0x{Serialised(tensors).sha256}"
    path.write_bytes(safetensors.torch.save(tensors, metadata))
    return path


def wrong_alpha(tensors, metadata):
    for key in tensors:
        if key.endswith(".alpha"):
            tensors[key] = torch.tensor(float(RANK))
    if DIFFUSERS_HEADER in metadata:
        metadata[DIFFUSERS_HEADER] = metadata[DIFFUSERS_HEADER].replace(
            str(ALPHA), str(float(RANK))
        )


def no_alpha(tensors, metadata):
    metadata.pop(DIFFUSERS_HEADER, None)
    return {key: tensor for key, tensor in tensors.items() if not key.endswith(".alpha")}


def exchanged_halves(tensors, metadata):
    swap = {"lora_down": "lora_up", "lora_up": "lora_down", "lora_A": "lora_B", "lora_B": "lora_A"}
    return {
        re.sub("lora_(down|up|A|B)", lambda m: swap[m[0]], key): tensor
        for key, tensor in tensors.items()
    }


def half_the_rank(tensors, metadata):
    for key, tensor in tensors.items():
        if key.endswith(("lora_down.weight", "lora_A.weight")):
            tensors[key] = tensor[: RANK // 2].contiguous()
        elif key.endswith(("lora_up.weight", "lora_B.weight")):
            tensors[key] = tensor[:, : RANK // 2].contiguous()


def transposed_halves(tensors, metadata):
    """Exchanged so that the shapes fit: only the product shows it."""
    for down in [key for key in tensors if key.endswith(("lora_down.weight", "lora_A.weight"))]:
        up = down.replace("lora_down", "lora_up").replace("lora_A", "lora_B")
        if tensors[down].shape == tensors[up].transpose(0, 1).shape:
            tensors[down], tensors[up] = (
                tensors[up].transpose(0, 1).contiguous(),
                tensors[down].transpose(0, 1).contiguous(),
            )


def wrong_prefix(tensors, metadata):
    return {
        key.replace("lora_unet_", "lora_te_").replace("unet.", ""): tensor
        for key, tensor in tensors.items()
    }


def one_layer_lost(tensors, metadata):
    lost = min(tensors).split(".lora_")[0].removesuffix(".alpha")
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(lost)}


def not_finite(tensors, metadata):
    tensors[max(tensors)].view(-1)[0] = float("nan")


def one_number_off(tensors, metadata):
    tensors[max(tensors)].view(-1)[0] += 0.01


def something_more(tensors, metadata):
    tensors["lora_te_text_model_encoder.dora_scale"] = torch.ones(1)


def a_text_more(tensors, metadata):
    tensors["a_text"] = torch.ones(1)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (wrong_alpha, "has alpha 4 instead of 2"),
        (no_alpha, "has alpha 4 instead of 2"),
        (exchanged_halves, "do not fit together"),
        (half_the_rank, "has other dimensions"),
        (transposed_halves, "has another effect"),
        (wrong_prefix, "its layers are not the adapter's"),
        (one_layer_lost, "its layers are not the adapter's"),
        (not_finite, "not numbers"),
        (one_number_off, "has another effect"),
        (something_more, "is a DoRA"),
        (a_text_more, "something unexpected"),
    ],
)
def test_the_check_catches(form, change, finding, tuned, exported):
    adapter = from_peft(tuned[0], RANK, ALPHA)
    path = by_form(exported)[form]
    assert check(path, form, adapter, "sd1")  # whole before it was corrupted
    with pytest.raises(LoraError, match=finding):
        check(corrupted(path, change), form, adapter, "sd1")


@pytest.mark.parametrize("form", FORMATS)
def test_the_check_catches_a_cut_or_changed_file(form, tuned, exported):
    adapter = from_peft(tuned[0], RANK, ALPHA)
    path = by_form(exported)[form]
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(LoraError, match="cannot be read back"):
        check(path, form, adapter, "sd1")
    path.write_bytes(whole.replace(b'"modelspec.hash_sha256":"0x', b'"modelspec.hash_sha256":"1x'))
    with pytest.raises(LoraError, match="hash"):
        check(path, form, adapter, "sd1")


def test_nothing_is_left_behind_when_a_check_fails(tuned, tmp_path, monkeypatch):
    honest = lora_format.tensors

    def broken(*given):
        tensors = honest(*given)
        wrong_alpha(tensors, {})
        return tensors

    monkeypatch.setattr(lora_format, "tensors", broken)
    with pytest.raises(LoraError, match="has alpha 4 instead of 2"):
        export_lora(tmp_path, "x", tuned[0], RANK, ALPHA, INFO)
    assert list(tmp_path.iterdir()) == []


# --- what the files say ----------------------------------------------------------------------


def test_what_the_kohya_file_says(exported):
    path = by_form(exported)["kohya"]
    metadata, body_hash = lora_format.read(path).metadata, weights.body_sha256(path)
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert metadata["ss_v2"] == "False"
    assert metadata["ss_output_name"] == by_form(exported)["kohya"].stem == "My taste"
    assert metadata["ss_network_dim"] == str(RANK)
    assert float(metadata["ss_network_alpha"]) == ALPHA
    assert metadata["ss_sd_model_name"] == "the starter model"
    assert metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["modelspec.title"] == "My taste"
    assert metadata["modelspec.trigger_phrase"] == "in my taste"
    assert metadata["modelspec.license"] == "CC BY 4.0"
    assert metadata["modelspec.prediction_type"] == "v"
    assert metadata["modelspec.resolution"] == "128x128"
    assert "0.8" in metadata["modelspec.usage_hint"]
    assert "48 picks" in metadata["modelspec.description"]
    assert metadata["d3po_studio.picks"] == "48"
    assert metadata["sshs_model_hash"] == body_hash
    assert re.fullmatch("[0-9a-f]{8}", metadata["sshs_legacy_hash"])
    assert "ot_branch" not in metadata
    kind, data = metadata["modelspec.thumbnail"].split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (256, 192)


def test_what_lies_beside_it(exported):
    folder = exported.files[0].parent
    assert sorted(f.name for f in folder.iterdir()) == [
        "My taste-diffusers.safetensors",
        "My taste.json",
        "My taste.png",
        "My taste.safetensors",
    ]
    assert set(folder.iterdir()) == set(exported.files)
    beside = json.loads((folder / "My taste.json").read_text("utf-8"))
    assert beside["activation text"] == "in my taste"
    assert beside["preferred weight"] == 0.8
    assert beside["sd version"] == "SD1"
    assert Image.open(folder / "My taste.png").size == (512, 384)


def test_the_report_is_plain_and_says_what_was_checked(exported):
    assert json.loads(json.dumps(exported.checks)) == exported.checks
    assert exported.checks["My taste.safetensors: strength"].startswith("rank 4 and alpha 2")


@pytest.mark.parametrize(
    ("family", "base", "architecture", "sd_version"),
    [
        ("sd1", "sd_v1", "stable-diffusion-v1/lora", "SD1"),
        ("sd2", "sd_v2", "stable-diffusion-v2-512/lora", "SD2"),
        ("sd2_v", "sd_v2_v", "stable-diffusion-v2-768-v/lora", "SD2"),
        ("sdxl", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "SDXL"),
    ],
)
def test_every_family_is_told_apart(family, base, architecture, sd_version, tuned, tmp_path):
    names = {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"}
    state = {k: t for k, t in tuned[0].items() if k.split(".lora_")[0] in names}
    info = ExportInfo(family, "some model", picks=1, trained_at_s=0.0)
    report = export_lora(tmp_path, family, state, RANK, ALPHA, info, ("kohya",))
    metadata = lora_format.read(tmp_path / f"{report.name}.safetensors").metadata
    assert metadata["ss_base_model_version"] == base
    assert metadata["modelspec.architecture"] == architecture
    sidecar = json.loads((tmp_path / f"{report.name}.json").read_text("utf-8"))
    assert sidecar["sd version"] == sd_version
    assert metadata["ss_v2"] == str(family.startswith("sd2"))


def test_a_second_export_replaces_the_first(tuned, tmp_path):
    first = export_lora(tmp_path, "x", tuned[0], RANK, ALPHA, INFO)
    state = {key: tensor * 2 for key, tensor in tuned[0].items()}
    second = export_lora(tmp_path, "x", state, RANK, ALPHA, INFO)
    assert first.files == second.files
    modules = lora_format.read(tmp_path / "x.safetensors").parts
    wanted = from_peft(state, RANK, ALPHA)
    assert all(torch.equal(modules[kohya_name(n, "sd1")].up, m.up) for n, m in wanted.items())


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: {}, "empty"),
        (lambda s: s | {"x.lora_magnitude_vector": torch.ones(1)}, "not a plain LoRA"),
        (lambda s: dict(list(s.items())[1:]), "only one half"),
        (lambda s: {k: t * float("inf") for k, t in s.items()}, "not finite"),
        (lambda s: {k: t[:2] if ".lora_A" in k else t[:, :2] for k, t in s.items()}, "rank 4"),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused(change, sentence, tuned, tmp_path):
    with pytest.raises(LoraError, match=sentence):
        export_lora(tmp_path, "x", change(tuned[0]), RANK, ALPHA, INFO)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_sentence(tuned, tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LoraError, match="The disk is full"):
        export_lora(tmp_path, "x", tuned[0], RANK, ALPHA, INFO)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_a_sentence(tuned, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LoraError, match="could not be written"):
        export_lora(tmp_path / "file", "x", tuned[0], RANK, ALPHA, INFO)


# --- file names --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("My taste", "My taste"),
        ("  a/b\\c:d  ", "a b c d"),
        ("..", "lora"),
        ("", "lora"),
        ("\x00\n", "lora"),
        ("../../etc/passwd", "etc passwd"),
        ("con", "_con"),
        ("COM1.final", "_COM1.final"),
        ("console", "console"),
        (".hidden", "hidden"),
        ("trailing.", "trailing"),
        ("blå 🦊", "blå 🦊"),
        ("cafe\u0301", "café"),
        ("\u202ereversed", "reversed"),
        ("\udcff", "lora"),
    ],
)
def test_names(typed, expected):
    assert file_name(typed) == expected


@given(
    st.text()
    | st.text(alphabet="aé🦊 ./\\\u200d", min_size=200)
    | st.sampled_from(["nul", "aux.", "LPT9", "con .x", "prn. ."])
)
def test_any_name_becomes_a_file_name(typed):
    name = file_name(typed)
    for ending in (*export.ENDINGS.values(), ".png", ".json"):
        assert len(f"{name}{ending}".encode()) <= 255
    assert name
    assert name == name.strip(" .")
    assert not set(name) & set('/\\:*?"<>|')
    assert name.isprintable()
    assert not re.match(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)", name)
    assert file_name(name) == name  # so a name taken from a file gives that file again


@given(name=st.text(max_size=80), trigger=st.text(), notes=st.text(), base=st.text())
def test_whatever_is_typed_is_exported(name, trigger, notes, base, tmp_path_factory):
    state = {"a.to_q.lora_A.weight": torch.ones(1, 2), "a.to_q.lora_B.weight": torch.ones(3, 1)}
    folder = tmp_path_factory.mktemp("typed")
    info = ExportInfo("sd1", base, 1, 0.0, trigger=trigger, notes=notes, author=notes)
    report = export_lora(folder, name, state, 1, 1.0, info)
    assert all(path.parent == folder and path.is_file() for path in report.files)
    json.loads((folder / f"{report.name}.json").read_bytes())
