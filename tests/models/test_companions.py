"""What lies beside a checkpoint: its VAE, and the textual inversions that prompts name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from studio import models
from studio.bench.families import make_pipeline, make_vae, vae_tensors, write_checkpoint
from studio.engine import sampling
from studio.models import ModelError
from studio.models.inversions import word_pattern
from studio.settings import SamplingSettings

SETTINGS = SamplingSettings(steps=2, width_px=64, height_px=64, guidance=3.0, eta=0.0)
PROMPT = "a photo of My-Style, on a table"


@pytest.fixture(scope="module")
def pipelines() -> dict:
    return {family: make_pipeline(family) for family in ("sd1", "sdxl")}


@pytest.fixture(params=["sd1", "sdxl"])
def made(request: pytest.FixtureRequest, pipelines: dict, tmp_path: Path) -> tuple[Path, str]:
    """A checkpoint in a place of its own, and its family."""
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, pipelines[request.param], request.param)
    return path, request.param


@pytest.fixture
def sd1(pipelines: dict, tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model.safetensors", pipelines["sd1"], "sd1")


def vectors(count: int, width: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count))


def put_inversion(checkpoint: Path, family: str, name: str = "my-style", count: int = 3) -> Path:
    folder = checkpoint.parent / "embeddings" / "of mine"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"emb_params": vectors(count, 64)}
    if family == "sdxl":
        tensors = {"clip_l": vectors(count, 64), "clip_g": vectors(count, 128)}
    path = folder / f"{name}.safetensors"
    save_file(tensors, path)
    return path


# --- textual inversions --------------------------------------------------------------------------


def expected_latents(family: str, prompt: str, negative: str, start: torch.Tensor) -> torch.Tensor:
    """As diffusers draws with its own textual inversions."""
    pipeline = make_pipeline(family)
    pairs = [("text_encoder", "tokenizer", 64)]
    if family == "sdxl":
        pairs.append(("text_encoder_2", "tokenizer_2", 128))
    for encoder, tokenizer, width in pairs:
        pipeline.load_textual_inversion(
            {"<it>": vectors(3, width)},
            token="<it>",
            text_encoder=getattr(pipeline, encoder),
            tokenizer=getattr(pipeline, tokenizer),
        )
    return pipeline(
        prompt,
        negative_prompt=negative,
        num_inference_steps=2,
        guidance_scale=3.0,
        latents=start,
        width=64,
        height=64,
        output_type="latent",
        eta=0.0,
    ).images


@pytest.mark.parametrize("where", ["prompt", "negative"])
def test_it_is_diffusers_own_in_both_prompts(made: tuple[Path, str], where: str) -> None:
    path, family = made
    put_inversion(path, family)
    prompt, negative = (PROMPT, "blurry") if where == "prompt" else ("a cat", "bad, my-style")
    denoiser = models.load(str(path), "cpu")
    (chain,) = sampling.sample(denoiser, [prompt], [3], replace(SETTINGS, negative_prompt=negative))
    theirs = [text.lower().replace("my-style", "<it>") for text in (prompt, negative)]
    expected = expected_latents(family, *theirs, chain.latents[:1])
    torch.testing.assert_close(chain.latents[-1:], expected, rtol=1e-4, atol=1e-4)
    (plain,) = sampling.sample(
        denoiser, ["a cat"], [3], replace(SETTINGS, negative_prompt="blurry")
    )
    assert not torch.allclose(plain.latents[-1], chain.latents[-1], atol=1e-3)


def test_all_of_its_vectors_are_weighed(sd1: Path) -> None:
    put_inversion(sd1, "sd1")
    denoiser = models.load(str(sd1), "cpu")
    plain, more = (
        denoiser.text.embed([p]).states for p in ("a my-style cat", "a (my-style:1.3) cat")
    )
    empty = denoiser.text.embed([""]).states
    # The begin and “a” come before its three vectors; those alone are led away from the empty text.
    torch.testing.assert_close(more[:, :2], plain[:, :2])
    inside = slice(2, 5)
    torch.testing.assert_close(
        more[:, inside], empty[:, inside] + 1.3 * (plain - empty)[:, inside], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(more[:, 5:], plain[:, 5:])
    less = denoiser.text.embed(["a [my-style] cat"]).states
    assert not torch.allclose(less, plain, atol=1e-4)


def test_one_vector_in_diffusers_form_is_that_token(sd1: Path) -> None:
    """The vector of a word that is there already: then the word itself is drawn."""
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    table = load_file(sd1)[name]
    denoiser = models.load(str(sd1), "cpu")
    [_, cat, *_] = denoiser.tokenizers[0]("cat").input_ids
    (sd1.parent / "embeddings").mkdir()
    save_file({"<anything>": table[cat].clone()}, sd1.parent / "embeddings" / "miau.safetensors")
    torch.testing.assert_close(
        denoiser.text.embed(["a MIAU"]).states, denoiser.text.embed(["a cat"]).states
    )


def test_a_file_that_changes_or_goes_is_noticed(sd1: Path) -> None:
    denoiser = models.load(str(sd1), "cpu")
    plain = denoiser.text.embed(["a my-style"]).states
    path = put_inversion(sd1, "sd1", count=3)
    three = denoiser.text.embed(["a my-style"]).states
    put_inversion(sd1, "sd1", count=2)
    two = denoiser.text.embed(["a my-style"]).states
    path.unlink()
    assert torch.equal(denoiser.text.embed(["a my-style"]).states, plain)
    assert not torch.allclose(plain, three)
    assert not torch.allclose(three, two)


@pytest.mark.parametrize(
    ("folder", "model"),
    [
        ("embeddings", "models/Stable-diffusion/mine/m.safetensors"),  # A1111 and Forge
        ("models/embeddings", "models/checkpoints/m.safetensors"),  # ComfyUI
        ("any/embeddings", "any/m.safetensors"),
    ],
)
def test_the_folders_of_other_tools_are_found(tmp_path: Path, folder: str, model: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    assert models.inversions.folders(tmp_path / model) == [tmp_path / folder]
    assert models.inversions.folders(tmp_path / "elsewhere" / "m.safetensors") == []


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("bad", "bad, (Bad:1.2) BAD-hands badly superbad", 3),
        ("bad hands 5", "bad hands 5, bad hands 50", 1),
        ("v1.3", "v1.3 v1x3 av1.3", 1),
        ("(x)", "a (x) b", 1),
        ("été", "été détété", 1),
    ],
)
def test_a_name_is_found_as_a_word_of_its_own(name: str, text: str, count: int) -> None:
    import re

    assert len(re.findall(word_pattern(name), text, re.IGNORECASE)) == count


@given(st.text(min_size=1, max_size=12))
def test_any_name_is_found_where_it_stands_alone(name: str) -> None:
    import re

    assert re.fullmatch(word_pattern(name), name)


def test_what_is_not_read_is_said_with_the_names(sd1: Path) -> None:
    put_inversion(sd1, "sd1", count=70)
    denoiser = models.load(str(sd1), "cpu")
    assert (
        denoiser.text.unread("a red apple, my-style, and then a long tail")
        == "and then a long tail"
    )
    assert denoiser.text.unread("a my-style my-style b") == "my-style b"
    assert denoiser.text.unread("a my-style") == ""


def test_what_was_used_is_told_as_a1111_tells_it(made: tuple[Path, str]) -> None:
    path, family = made
    inversion = put_inversion(path, family)
    put_inversion(path, family, "other")
    denoiser = models.load(str(path), "cpu")
    data = inversion.read_bytes()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    short = hashlib.sha256(body).hexdigest()[:12]
    assert denoiser.companions([PROMPT, "my-style"]) == {"TI hashes": f"my-style: {short}"}
    assert denoiser.companions(["a cat"]) == {}


def broken(write: Callable[[Path], None], ending: str = ".safetensors") -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        write(folder / f"word{ending}")

    return put


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickle": (broken(lambda p: p.write_bytes(b"PK\x03\x04"), ".pt"), "can hide a program"),
    "bin": (broken(lambda p: p.write_bytes(b"\x80\x02"), ".bin"), "can hide a program"),
    "renamed pickle": (
        broken(lambda p: p.write_bytes(b"\x80\x02abc")),
        "pickle under another name",
    ),
    "empty": (broken(lambda p: p.write_bytes(b"")), "is empty"),
    "page": (broken(lambda p: p.write_bytes(b"<html>" + b" " * 600)), "web page"),
    "cut": (
        broken(lambda p: (save_file({"emb_params": vectors(2, 64)}, p), _cut(p))),
        "is incomplete",
    ),
    "wide": (broken(lambda p: save_file({"emb_params": vectors(2, 768)}, p)), "768 numbers each"),
    "xl": (
        broken(lambda p: save_file({"clip_l": vectors(2, 64), "clip_g": vectors(2, 128)}, p)),
        "for Stable Diffusion XL",
    ),
    "many": (broken(lambda p: save_file({"emb_params": vectors(76, 64)}, p)), "holds 76 vectors"),
    "two": (
        broken(lambda p: save_file({"a": vectors(1, 64), "b": vectors(2, 64)}, p)),
        "not a textual",
    ),
    "deep": (broken(lambda p: save_file({"a": torch.zeros(1, 1, 64)}, p)), "not a textual"),
    "whole numbers": (
        broken(lambda p: save_file({"a": torch.zeros(1, 64, dtype=torch.int64)}, p)),
        "not a textual",
    ),
    "not numbers": (
        broken(lambda p: save_file({"a": torch.full((1, 64), float("nan"))}, p)),
        "not numbers",
    ),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def test_a_broken_one_is_a_sentence_when_it_is_named_and_else_nothing(sd1: Path) -> None:
    denoiser = models.load(str(sd1), "cpu")
    folder = sd1.parent / "embeddings"
    folder.mkdir()
    for name, (put, words) in BROKEN.items():
        put(folder)
        with pytest.raises(ModelError) as said:
            denoiser.text.embed(["a word"])
        assert words in str(said.value), name
        denoiser.text.embed(["a cat"])
        for path in folder.iterdir():
            path.unlink()


def test_one_for_another_family_is_a_sentence(pipelines: dict, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "xl.safetensors", pipelines["sdxl"], "sdxl")
    put_inversion(path, "sd1")
    denoiser = models.load(str(path), "cpu")
    with pytest.raises(ModelError, match="for Stable Diffusion 1 or 2"):
        denoiser.text.embed(["my-style"])


def test_a_safetensors_file_goes_before_a_pickle_of_its_name(sd1: Path) -> None:
    path = put_inversion(sd1, "sd1")
    for folder in (path.parent, path.parent.parent):
        (folder / "my-style.pt").write_bytes(b"PK\x03\x04")
    models.load(str(sd1), "cpu").text.embed(["my-style"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80), st.booleans())
def test_no_file_of_a_word_does_harm(tmp_path: Path, data: bytes, is_framed: bool) -> None:
    path = tmp_path / "word.safetensors"
    path.write_bytes(len(data).to_bytes(8, "little") + data if is_framed else data)
    with pytest.raises(ModelError):
        models.inversions.read_vectors(path, [64])


# --- the VAE -------------------------------------------------------------------------------------


def other_vae(is_xl: bool = False) -> dict[str, torch.Tensor]:
    torch.manual_seed(99)
    return {k: v.contiguous() for k, v in vae_tensors(make_vae(is_xl)).items()}


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_the_vae_beside_a_checkpoint_takes_the_place_of_its_own(
    made: tuple[Path, str], prefix: str
) -> None:
    path, family = made
    before = models.load(str(path), "cpu")
    beside = path.with_name("model.vae.safetensors")
    tensors = {f"{prefix}{k}": v for k, v in other_vae(family == "sdxl").items()}
    save_file(tensors | {"loss.logvar": torch.zeros(1)}, beside)
    after = models.load(str(path), "cpu")
    assert after.info.vae == beside
    assert after.base_hash == before.base_hash  # what was learned fits it as before
    (chain,) = sampling.sample(after, ["a cat"], [3], SETTINGS)
    torch.manual_seed(99)
    vae = make_vae(family == "sdxl").eval()
    with torch.no_grad():
        expected = vae.decode(chain.latents[-1:] / vae.config.scaling_factor).sample
    levels = ((expected + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0)
    [drawn] = sampling.images(after, [chain])
    assert abs(torch.from_numpy(np.array(drawn)).int() - levels.int()).max() <= 1
    [own] = sampling.images(before, [chain])
    assert own.tobytes() != drawn.tobytes()
    digest = hashlib.sha256(beside.read_bytes()).hexdigest()[:10]
    assert after.companions([]) == {"VAE hash": digest, "VAE": "model.vae.safetensors"}


def test_a_checkpoint_without_a_vae_is_whole_with_one_beside_it(sd1: Path) -> None:
    tensors = {k: v for k, v in load_file(sd1).items() if not k.startswith("first_stage_model.")}
    save_file(tensors, sd1)
    with pytest.raises(ModelError, match=r"beside it as model\.vae\.safetensors"):
        models.inspect(str(sd1))
    save_file(other_vae(), sd1.with_name("model.vae.safetensors"))
    models.load(str(sd1), "cpu")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {"decoder.x": torch.zeros(1)}, "not a complete VAE"),
        (lambda t: {k: v for k, v in t.items() if "up.2" not in k}, "is incomplete"),
        (lambda t: t | {"decoder.conv_in.weight": torch.zeros(32, 16, 3, 3)}, "another kind"),
        (lambda t: {"encoder.down_blocks.0.x": torch.zeros(1)}, "in the diffusers format"),
        (lambda t: {k: v * float("nan") for k, v in t.items()}, "not all numbers"),
    ],
)
def test_a_broken_vae_is_a_sentence(sd1: Path, change: Callable, words: str) -> None:
    save_file(change(other_vae()), sd1.with_name("model.vae.safetensors"))
    with pytest.raises(ModelError, match=words) as said:
        models.load(str(sd1), "cpu")
    assert "model.vae.safetensors" in str(said.value)


def test_a_pickled_vae_is_left_alone_and_said(sd1: Path) -> None:
    sd1.with_name("model.vae.pt").write_bytes(b"PK\x03\x04")
    info = models.inspect(str(sd1))
    assert info.vae is None
    assert "model.vae.pt beside it can hide a program" in info.note


def test_a_truncated_vae_is_a_sentence(sd1: Path) -> None:
    beside = sd1.with_name("model.vae.safetensors")
    save_file(other_vae(), beside)
    _cut(beside)
    with pytest.raises(ModelError, match=r"model\.vae\.safetensors is incomplete"):
        models.inspect(str(sd1))
    header = json.dumps({}).encode()
    beside.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="holds no weights"):
        models.inspect(str(sd1))
