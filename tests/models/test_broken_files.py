"""Files that are not what they should be: a sentence each, no crash, no wait, nothing is run."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from studio import models, weights
from studio.bench.families import make_pipeline, write_checkpoint
from studio.models import ModelError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole model in both forms: `sd1` and `sd1.safetensors`."""
    root = tmp_path_factory.mktemp("whole")
    pipeline = make_pipeline("sd1")
    pipeline.save_pretrained(root / "sd1")
    write_checkpoint(root / "sd1.safetensors", pipeline, "sd1")
    return root


class Ran(Exception):
    """A pickle or a module of the model was run."""


class Trap:
    def __reduce__(self) -> tuple:
        return (_spring, ())


def _spring() -> None:
    raise Ran


def with_header(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def keyed(*names: str, shape: tuple[int, ...] = (1,), **more: torch.Tensor) -> bytes:
    return save({name: torch.zeros(shape) for name in names} | more)


FIRST = "model.diffusion_model.input_blocks.0.0.weight"

# What a .safetensors file turns out to hold, and what the artist is told.
CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "a byte": (b"\x01", "only part of one"),
    "text": (b"buy milk, and bread\n" * 9, "is a text"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "is a web page"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs"),
    "zeros": (b"\0" * 4096, "header of model.safetensors is damaged"),
    "pickle": (pickle.dumps(Trap()), "a Python pickle under another name"),
    "torch file": (b"PK\x03\x04" + b"\0" * 100, "a PyTorch file under another name"),
    "gguf": (b"GGUF\x03\0\0\0" + b"\0" * 100, "a GGUF file"),
    "header too long": (with_header({}, length=2**62), "only part of one"),
    "header longer than file": (with_header({}, length=1000), "only part of one"),
    "header is no json": (struct.pack("<Q", 4) + b"{{{{", "header of .* is damaged"),
    "header is a list": (with_header([1, 2]), "header of .* is damaged"),
    "deep header": (struct.pack("<Q", 200_000) + b"[" * 200_000, "header of .* is damaged"),
    "offsets outside": (with_header({"a": entry([4], 0, 16)}, b"\0" * 8), "8 bytes are missing"),
    "offsets overlap": (
        with_header({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"\0" * 12),
        "header of .* is damaged",
    ),
    "offsets do not fit the shape": (
        with_header({"a": entry([2**40, 2**40], 0, 8)}, b"\0" * 8),
        "header of .* is damaged",
    ),
    "negative offsets": (with_header({"a": entry([2], -8, 0)}), "header of .* is damaged"),
    "unknown numbers": (with_header({"a": entry([2], 0, 8, "Q4")}, b"\0" * 8), "unsupported type"),
    "numbers of no type": (
        with_header({"a": entry([2], 0, 8, ["F32"])}),
        "header of .* is damaged",
    ),
    "a number of four thousand digits": (
        with_header({"a": entry([10**4000], 0, 8)}, b"\0" * 8),
        "header of .* is damaged",
    ),
    "not a number of JSON": (
        struct.pack("<Q", 57) + b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,NaN]}}  ',
        "header of .* is damaged",
    ),
    "a name of half a letter": (
        with_header({"\ud800": entry([1], 0, 4)}, b"\0" * 4),
        "header of .* is damaged",
    ),
    "another encoding": (
        struct.pack("<Q", 10) + "{[]}".encode("utf-16"),
        "header of .* is damaged",
    ),
    "the same name twice": (
        struct.pack("<Q", 25) + b'{"a":{},"a":{},"b":{}   }',
        "header of .* is damaged",
    ),
    "nothing": (with_header({}), "holds no weights"),
    "lora": (keyed("lora_unet_down_blocks_0.lora_down.weight"), "is a LoRA"),
    "loha": (keyed("lora_unet_down_blocks_0.hada_w1_a"), "is a LoRA"),
    "textual inversion": (keyed("emb_params"), "is a textual inversion"),
    "vae": (keyed("first_stage_model.decoder.conv_in.weight"), "only a VAE"),
    "unet": (keyed("input_blocks.0.0.weight"), "only the UNet"),
    "something else": (keyed("fc.weight"), "does not hold a Stable Diffusion model"),
    "controlnet": (keyed("control_model.time_embed.0.weight"), "a ControlNet"),
    "sd3": (keyed("model.diffusion_model.joint_blocks.0.x"), "a Stable Diffusion 3 model"),
    "flux": (keyed("double_blocks.0.img_attn.qkv.weight"), "a FLUX model"),
    "flux 2": (keyed("single_stream_modulation.lin.weight"), "the network of a FLUX.2 model alone"),
    "flux 2 in ComfyUI's checkpoints": (
        keyed("model.diffusion_model.single_stream_modulation.lin.weight"),
        "as a diffusers folder with all parts",
    ),
    "refiner": (
        keyed(FIRST, shape=(4, 4, 3, 3), **{"conditioner.embedders.0.model.x": torch.zeros(1)}),
        "the SDXL refiner",
    ),
    "inpainting": (keyed(FIRST, shape=(4, 9, 3, 3)), "an inpainting model"),
    "instructions": (keyed(FIRST, shape=(4, 8, 3, 3)), "changes pictures by instruction"),
    "vae of sixteen channels": (
        keyed(
            FIRST,
            shape=(4, 16, 3, 3),
            **{"model.diffusion_model.out.2.weight": torch.zeros(16, 4, 3, 3)},
        ),
        "a VAE of 16 channels instead of 4",
    ),
    "no vae": (keyed(FIRST, shape=(4, 4, 3, 3)), "holds no VAE"),
}


@pytest.mark.parametrize("what", list(CONTENTS))
def test_what_a_file_is_instead(what: str, tmp_path: Path) -> None:
    content, sentence = CONTENTS[what]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=sentence) as caught:
        models.load(str(path), "cpu")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def cut(root: Path) -> Path:
    path = root / "sd1.safetensors"
    os.truncate(path, path.stat().st_size - 1000)
    return path


def checkpoint(change: Callable[[dict], None]) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        tensors = load_file(root / "sd1.safetensors")
        change(tensors)
        save_file(tensors, root / "changed.safetensors")
        return root / "changed.safetensors"

    return make


def configuration(part: str, **changes: object) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        path = root / "sd1" / part
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return root / "sd1"

    return make


def folder(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        change(root / "sd1")
        return root / "sd1"

    return make


def pipe(root: Path) -> Path:
    os.mkfifo(root / "pipe.safetensors")
    return root / "pipe.safetensors"


def ckpt(root: Path) -> Path:
    (root / "model.ckpt").write_bytes(pickle.dumps(Trap()))
    return root / "model.ckpt"


def not_numbers(tensors: dict) -> None:
    tensors[FIRST][0, 0, 0, 0] = float("nan")


UNET = Path("unet", "diffusion_pytorch_model.safetensors")


def shards(*places: str) -> Callable[[Path], object]:
    """The UNet's weights in shards, of which the index says that they are in `places`."""

    def change(root: Path) -> None:
        (root / UNET).unlink()
        index = {"weight_map": {f"weight.{n}": place for n, place in enumerate(places)}}
        (root / f"{UNET}.index.json").write_text(json.dumps(index))
        (root / "unet" / "zero.safetensors").touch()

    return change


def pickled_unet(root: Path) -> None:
    (root / UNET).unlink()
    (root / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap()))


def custom_code(root: Path) -> None:
    (root / "mine.py").write_text("raise RuntimeError('ran')")
    index = json.loads((root / "model_index.json").read_text())
    index |= {"_class_name": ["mine", "Mine"]}
    (root / "model_index.json").write_text(json.dumps(index))


def custom_part(root: Path) -> None:
    """A UNet and a tokenizer that ask for code of their own; theirs are not even looked at."""
    (root / "unet" / "mine.py").write_text("raise RuntimeError('ran')")
    (root / "tokenizer" / "mine.py").write_text("raise RuntimeError('ran')")
    for path, value in (
        ("unet/config.json", {"auto_map": {"AutoModel": "mine.Mine"}, "_class_name": "Mine"}),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["mine.M", None]}}),
    ):
        (root / path).write_text(json.dumps(json.loads((root / path).read_text()) | value))
    (root / UNET).unlink()


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda root: root / "none", "There is no model at"),
    "a name too long": (lambda root: root / ("x" * 5000), "cannot be read"),
    "cut": (cut, "bytes are missing"),
    "pipe": (pipe, "is not a file that can be read"),
    "ckpt": (ckpt, "convert it to .safetensors"),
    "weights missing": (
        checkpoint(lambda tensors: tensors.pop("first_stage_model.decoder.conv_in.bias")),
        "is incomplete: the weights of",
    ),
    "text encoder missing": (
        checkpoint(
            lambda tensors: [tensors.pop(k) for k in list(tensors) if k.startswith("cond_stage")]
        ),
        "holds no text encoder",
    ),
    "wrong shapes": (
        checkpoint(lambda tensors: tensors.update({FIRST: torch.zeros(64, 4, 3, 3)})),
        "do not fit together",
    ),
    "not numbers": (checkpoint(not_numbers), "not all numbers"),
    "index missing": (folder(lambda root: (root / "model_index.json").unlink()), "missing"),
    "index damaged": (folder(lambda root: (root / "model_index.json").write_text("{")), "damaged"),
    "config missing": (folder(lambda root: (root / "unet/config.json").unlink()), "missing"),
    "config of the wrong kind": (configuration("unet/config.json", sample_size="x"), "damaged"),
    "config that does not fit": (
        configuration("unet/config.json", cross_attention_dim=32),
        "do not fit together",
    ),
    "unknown prediction": (
        configuration("scheduler/scheduler_config.json", prediction_type="flow"),
        "predicts flow",
    ),
    "a flow of a network without any": (
        configuration(
            "scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"
        ),
        "rectified flow, which is supported for Stable Diffusion XL only",
    ),
    "folder weights missing": (folder(lambda root: (root / UNET).unlink()), "incomplete"),
    "folder weights empty": (
        folder(lambda root: (root / UNET).write_bytes(b"")),
        "diffusion_pytorch_model.safetensors is empty",
    ),
    "folder weights cut": (
        folder(lambda root: os.truncate(root / UNET, 100_000)),
        "bytes are missing",
    ),
    "pickled weights": (folder(pickled_unet), "can hide programs"),
    "shards outside": (folder(shards("../../elsewhere.safetensors")), "outside of its folder"),
    "shards absolute": (folder(shards("/etc/passwd")), "outside of its folder"),
    "shards empty": (folder(shards("zero.safetensors")), "zero.safetensors is empty"),
    "shards missing": (folder(shards("gone.safetensors")), "gone.safetensors is missing"),
    "program of its own": (folder(custom_code), "such programs are not run"),
    "part of its own": (folder(custom_part), "incomplete"),
    "inpainting": (configuration("unet/config.json", in_channels=9), "an inpainting model"),
    "refiner": (
        configuration("model_index.json", _class_name="StableDiffusionXLImg2ImgPipeline"),
        "the SDXL refiner",
    ),
    "sd3": (
        configuration("model_index.json", _class_name="StableDiffusion3Pipeline"),
        "a Stable Diffusion 3 model",
    ),
    "flux": (configuration("model_index.json", _class_name="FluxPipeline"), "a FLUX model"),
    "unknown": (configuration("model_index.json", _class_name="Other"), "not supported"),
}


@pytest.mark.parametrize("what", list(BROKEN))
def test_a_broken_model_is_a_sentence(what: str, whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(whole, root)
    make, sentence = BROKEN[what]
    path = make(root)
    with pytest.raises(ModelError, match=sentence) as caught:
        models.load(str(path), "cpu")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_read() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, "model.safetensors")
        path.write_bytes(keyed("a"))
        path.chmod(0)
        if is_root := os.geteuid() == 0:  # to whom nothing is forbidden
            os.seteuid(65534)
        try:
            with pytest.raises(ModelError, match="may not be read"):
                models.inspect(str(path))
        finally:
            if is_root:
                os.seteuid(0)


def test_the_whole_model_is_taken(whole: Path) -> None:
    """Or the sentences above would prove nothing."""
    for form in ("sd1", "sd1.safetensors"):
        assert models.load(str(whole / form), "cpu").info.family == "sd1"


# --- the header, whatever is in it ---------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "X", 3]),
        "shape": st.lists(st.integers(-2, 2**62), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-8, 64), min_size=2, max_size=2) | JSON,
    },
)


@settings(deadline=None)
@given(header=JSON | st.dictionaries(st.text(max_size=3), ENTRY | JSON), body=st.binary())
def test_no_header_does_more_than_be_refused(header, body, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.safetensors"
    path.write_bytes(with_header(header, body))
    _refused_or_right(path)


@settings(deadline=None)
@given(content=st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(content: bytes, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.safetensors"
    path.write_bytes(content)
    _refused_or_right(path)


@settings(deadline=None)
@given(data=st.data())
def test_one_changed_byte_is_refused_or_harmless(data, tmp_path_factory) -> None:
    content = bytearray(keyed("a.weight", "b.weight", shape=(2, 3)))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "a.safetensors"
    path.write_bytes(content)
    _refused_or_right(path)


def _refused_or_right(path: Path) -> None:
    """What our reading accepts, the library reads to the same names and shapes."""
    try:
        header = weights.read_header(path)
    except ModelError:
        return
    tensors = load_file(path)
    assert {k: tuple(v.shape) for k, v in tensors.items()} == {
        k: entry.shape for k, entry in header.tensors.items()
    }


@pytest.mark.parametrize("size", [0, 1, 2, 2**20, 2**47, 2**62])
@pytest.mark.parametrize("count", [9, 200_000])
def test_a_long_shape_is_refused_before_it_is_counted_with(
    size: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = 0

    def counted(shape: tuple[int, ...]) -> int:
        nonlocal factors
        factors += len(shape)
        return math.prod(shape)

    monkeypatch.setattr(weights, "math", SimpleNamespace(prod=counted))
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header({"a": entry([size] * count, 0, 4)}, b"\0" * 4))
    with pytest.raises(ModelError, match=r"header of .* is damaged"):
        weights.read_header(path)
    assert factors == 0
    path.write_bytes(with_header({"a": entry([1] * 8, 0, 4)}, b"\0" * 4))
    assert weights.read_header(path).shape("a") == (1,) * 8
    assert factors == 8


def test_a_header_longer_than_real_ones_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    length = weights.MAX_HEADER_BYTES
    text = json.dumps({"a": entry([1], 0, 4)}).encode()
    for more, taken in ((0, True), (1, False)):
        path.write_bytes(struct.pack("<Q", length + more) + text.ljust(length + more) + b"\0" * 4)
        if taken:
            assert list(weights.read_header(path).tensors) == ["a"]
        else:
            with pytest.raises(ModelError, match="far too long"):
                weights.read_header(path)


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_header_whose_length_looks_like_a_pickle_is_none(length: int, tmp_path: Path) -> None:
    header = json.dumps({"a": entry([1], 0, 4)}).encode().ljust(length)
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header + b"\0" * 4)
    assert load_file(path)["a"].tolist() == [0.0]
    assert list(weights.read_header(path).tensors) == ["a"]
