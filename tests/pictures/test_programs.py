"""Settings in pictures of other programs, as those write them."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from studio.pictures import comfyui, programs
from studio.pictures.files import parameters_of
from studio.pictures.infotext import Parameters, ParametersError

A1111 = (
    "a cat – 猫\nNegative prompt: dogs\nSteps: 7, Sampler: DDIM, CFG scale: 3, Seed: 5, Size: 64x96"
)
READ = Parameters("a cat – 猫", "dogs", 7, "DDIM", 3.0, 5, 64, 96)


def png(**texts: str) -> bytes:
    notes = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        notes.add_itxt(name, text)
    return saved("PNG", pnginfo=notes)


def saved(form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, form, **options)
    return buffer.getvalue()


def exif(comment: bytes) -> Image.Exif:
    values = Image.Exif()
    values.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return values


# --- A1111 in JPEG and WebP ----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + A1111.encode("utf-16-be"),  # as A1111 does
        b"UNICODE\0" + A1111.encode("utf-16-le"),
        b"UNICODE\0" + A1111.encode("utf-16"),
        b"ASCII\0\0\0" + A1111.encode(),
        bytes(8) + A1111.encode(),
        A1111.encode(),
    ],
    ids=["big", "little", "marked", "ascii", "undefined", "bare"],
)
def test_the_comment_in_exif_is_read(form: str, comment: bytes) -> None:
    assert parameters_of(saved(form, exif=exif(comment))) == READ


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG"])
def test_a_picture_without_a_comment_does_not_say_how_it_was_made(form: str) -> None:
    for data in (saved(form), saved(form, exif=exif(b"UNICODE\0"))):
        with pytest.raises(ParametersError, match="does not say how"):
            parameters_of(data)


@given(st.binary(max_size=300), st.sampled_from(["JPEG", "WEBP", "PNG"]))
def test_no_exif_does_harm(data: bytes, form: str) -> None:
    for raw in (
        b"Exif\0\0" + data,
        b"Exif\0\0MM\0*\0\0\0\x08" + data,
        b"Exif\0\0II*\0\x08\0\0\0" + data,
    ):
        with contextlib.suppress(ParametersError):
            parameters_of(saved(form, exif=raw))


# --- ComfyUI -------------------------------------------------------------------------------------


def plain_graph() -> dict[str, Any]:
    """What ComfyUI's own first workflow becomes, with a LoRA and clip skip."""
    return {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 1125899906842624123,
                "steps": 24,
                "cfg": 6.5,
                "sampler_name": "dpmpp_2m",
                "scheduler": "karras",
                "denoise": 1,
                "model": ["10", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "4": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": "sd\\dreamer.safetensors"},
        },
        "5": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 512, "height": 768, "batch_size": 1},
        },
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["11", 0]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "dogs", "clip": ["11", 0]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {
            "class_type": "SaveImage",
            "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]},
        },
        "10": {
            "class_type": "LoraLoader",
            "inputs": {
                "lora_name": "ink.safetensors",
                "strength_model": 0.8,
                "strength_clip": 1,
                "model": ["4", 0],
                "clip": ["4", 1],
            },
        },
        "11": {
            "class_type": "CLIPSetLastLayer",
            "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]},
        },
    }


PLAIN = Parameters(
    "a cat",
    "dogs",
    24,
    "dpmpp_2m",
    6.5,
    1125899906842624123,
    512,
    768,
    model="dreamer",
    loras=(("ink", 0.8),),
    clip_skip=2,
)


def read(graph: Any) -> Parameters:
    return parameters_of(png(prompt=json.dumps(graph), workflow="{}"))


def test_a_graph_of_comfyui_is_followed() -> None:
    assert read(plain_graph()) == PLAIN


def test_a_graph_in_a_webp_is_followed() -> None:
    values = Image.Exif()
    values[ExifTags.Base.Model] = "prompt:" + json.dumps(plain_graph())
    assert parameters_of(saved("WEBP", exif=values)) == PLAIN


def test_values_in_nodes_of_their_own_are_found() -> None:
    graph = plain_graph()
    graph["3"]["inputs"] |= {"seed": ["20", 0], "cfg": ["21", 0], "steps": ["22", 3]}
    graph["6"]["inputs"]["text"] = ["23", 0]
    graph |= {
        "20": {"class_type": "Seed (rgthree)", "inputs": {"seed": 5}},
        "21": {"class_type": "Reroute", "inputs": {"": ["24", 0]}},
        "22": {"class_type": "PrimitiveInt", "inputs": {"value": 9}},
        "23": {
            "class_type": "StringConcatenate",
            "inputs": {"string_a": "a red", "string_b": ["25", 0], "delimiter": " "},
        },
        "24": {"class_type": "PrimitiveFloat", "inputs": {"value": 2.5}},
        "25": {"class_type": "Text Multiline", "inputs": {"text": "lion"}},
    }
    found = read(graph)
    assert (found.seed, found.steps, found.guidance) == (5, 9, 2.5)
    assert found.prompt == "a red, lion"
    assert found.unread == ()


def test_conditionings_are_followed_through_what_changes_them() -> None:
    graph = plain_graph()
    graph["3"]["inputs"] |= {"positive": ["30", 0], "negative": ["30", 1]}
    graph |= {
        "30": {
            "class_type": "ControlNetApplyAdvanced",
            "inputs": {"positive": ["31", 0], "negative": ["7", 0], "strength": 1},
        },
        "31": {
            "class_type": "ConditioningCombine",
            "inputs": {"conditioning_1": ["6", 0], "conditioning_2": ["32", 0]},
        },
        "32": {
            "class_type": "CLIPTextEncodeSDXL",
            "inputs": {"text_g": "on a shelf", "text_l": "on a shelf", "clip": ["11", 0]},
        },
    }
    found = read(graph)
    assert (found.prompt, found.negative_prompt) == ("a cat, on a shelf", "dogs")
    assert found.clip_skip == 2


def test_a_sampler_in_parts_without_guidance_is_read() -> None:
    """As ComfyUI draws Flux and Turbo models; the negative prompt is none at all."""
    graph = plain_graph()
    graph["3"] = {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {
            "noise": ["40", 0],
            "guider": ["41", 0],
            "sampler": ["42", 0],
            "sigmas": ["43", 0],
            "latent_image": ["5", 0],
        },
    }
    graph |= {
        "40": {"class_type": "RandomNoise", "inputs": {"noise_seed": 77}},
        "41": {
            "class_type": "BasicGuider",
            "inputs": {"model": ["10", 0], "conditioning": ["6", 0]},
        },
        "42": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "43": {
            "class_type": "BasicScheduler",
            "inputs": {"scheduler": "simple", "steps": 4, "denoise": 1, "model": ["10", 0]},
        },
    }
    found = read(graph)
    assert (found.prompt, found.negative_prompt) == ("a cat", "")
    assert (found.seed, found.steps, found.guidance, found.sampler) == (77, 4, 1.0, "euler")
    assert (found.model, found.loras, found.unread) == ("dreamer", (("ink", 0.8),), ())
    graph["41"] = {
        "class_type": "CFGGuider",
        "inputs": {"cfg": 3, "model": ["10", 0], "positive": ["6", 0], "negative": ["44", 0]},
    }
    graph["44"] = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["7", 0]}}
    found = read(graph)
    assert (found.prompt, found.negative_prompt, found.guidance) == ("a cat", "", 3.0)


def test_of_two_passes_the_first_is_read() -> None:
    graph = plain_graph()
    second = graph["3"]["inputs"] | {"steps": 10, "seed": 1, "denoise": 0.5}
    graph |= {
        "50": {
            "class_type": "LatentUpscale",
            "inputs": {"samples": ["3", 0], "width": 1024, "height": 1536},
        },
        "51": {"class_type": "KSampler", "inputs": second | {"latent_image": ["50", 0]}},
    }
    graph["8"]["inputs"]["samples"] = ["51", 0]
    found = read(graph)
    assert (found.steps, found.width_px, found.height_px) == (24, 512, 768)
    assert found.unread == ("It was drawn in 2 passes of ComfyUI; what the first did is read.",)


def test_what_cannot_be_followed_is_named() -> None:
    graph = plain_graph()
    graph["6"] = {"class_type": "PromptFromTheMoon", "inputs": {"phase": "full", "clip": ["11", 0]}}
    graph["5"] = {"class_type": "SizeFromTheMoon", "inputs": {"phase": "new"}}
    graph["3"]["inputs"]["cfg"] = ["60", 0]
    found = read(graph)
    assert (found.prompt, found.negative_prompt, found.seed) == ("", "dogs", PLAIN.seed)
    assert found.unread == (
        "Not found among ComfyUI’s nodes: its prompt and guidance and size.",
        "What these nodes add to its prompts is not read: “PromptFromTheMoon”.",
    )


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("{}", "no sampler is among its nodes"),
        ("[]", "no sampler"),
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"a": ' * 50_000, "damaged"),
        ("9" * 5000, "damaged"),
        (" " * (comfyui.MOST_CHARACTERS + 1) + "{}", "far too long"),
    ],
    ids=["nothing", "list", "cut", "nested", "nested objects", "digits", "long"],
)
def test_a_graph_that_cannot_be_read_is_a_sentence(prompt: str, sentence: str) -> None:
    with pytest.raises(ParametersError, match=sentence):
        comfyui.read(prompt)


def steps_of(graph: Mapping[str, Any]) -> int:
    """How many lines of `comfyui` are run to read a graph."""
    lines = 0

    def count(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != comfyui.__file__:
            return None
        lines += event == "line"
        return count

    text = json.dumps(graph)
    sys.settrace(count)
    try:
        with contextlib.suppress(ParametersError):
            comfyui.read(text)
    finally:
        sys.settrace(None)
    return lines


def circle(size: int) -> dict[str, Any]:
    """Every node comes before the next, and the last one before the first."""
    names = ("positive", "conditioning", "model", "guider", "latent_image", "seed", "clip")
    return {
        str(number): {
            "class_type": "Circle",
            "inputs": {name: [str((number + 1) % size), 0] for name in names}
            | {"steps": 3, "cfg": 1},
        }
        for number in range(size)
    }


def thicket(size: int) -> dict[str, Any]:
    """Every node comes before all others by a hundred ways."""
    return {
        str(number): {
            "class_type": "Thicket",
            "inputs": {f"text_{way}": [str((number * way) % size), 0] for way in range(100)}
            | {"sampler": ["1", 0], "sigmas": ["2", 0], "positive": ["3", 0]},
        }
        for number in range(size)
    }


@pytest.mark.parametrize("shape", [circle, thicket])
def test_work_grows_no_faster_than_the_graph(shape: Any) -> None:
    """Beyond the longest walk, only what is done once for every node grows."""
    some, more = steps_of(shape(400)), steps_of(shape(800))
    assert more < 2.2 * some


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(["1", "2", "3", "4", "5", "x"])
LINKS = st.tuples(KEYS, st.integers(0, 2)).map(list)
NODES = st.fixed_dictionaries(
    {
        "class_type": st.sampled_from(["KSampler", "SaveImage", "Reroute", "X"]) | JSON,
        "inputs": st.dictionaries(
            st.sampled_from(
                [
                    *(*comfyui.SAMPLES, *comfyui.TEXTS, *comfyui.PARTS, *comfyui.SEEDS, "steps"),
                    *("cfg", "positive", "negative", "conditioning", "clip", "model", "width"),
                    *("height", "lora_name", "strength_model", "stop_at_clip_layer", "ckpt_name"),
                ]
            ),
            LINKS | JSON,
        ),
    }
)


@given(st.dictionaries(KEYS, NODES | JSON) | JSON)
def test_no_graph_does_harm(graph: Any) -> None:
    with contextlib.suppress(ParametersError):
        assert isinstance(comfyui.read(json.dumps(graph)), Parameters)


# --- InvokeAI, Fooocus, SwarmUI, NovelAI ---------------------------------------------------------

INVOKE = {
    "app_version": "4.2.0",
    "generation_mode": "txt2img",
    "positive_prompt": "a cat",
    "negative_prompt": "dogs",
    "width": 512,
    "height": 768,
    "seed": 5,
    "cfg_scale": 7.5,
    "steps": 30,
    "scheduler": "euler",
    "clip_skip": 1,
    "model": {"name": "dreamer", "hash": "x", "base": "sd-1"},
    "loras": [{"model": {"name": "ink"}, "weight": 0.6}],
}


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (
            {"invokeai_metadata": INVOKE},
            Parameters(
                *("a cat", "dogs", 30, "euler", 7.5, 5, 512, 768),
                model="dreamer",
                loras=(("ink", 0.6),),
                clip_skip=2,  # one layer left out
            ),
        ),
        (
            {
                "invokeai_metadata": {
                    "positive_prompt": "a cat",
                    "seed": 5,
                    "loras": [{"lora": {"model_name": "ink"}, "weight": 1}],
                    "model": {"model_name": "dreamer"},
                }
            },
            Parameters("a cat", seed=5, model="dreamer", loras=(("ink", 1.0),)),
        ),
        (
            {
                "sd-metadata": {
                    "model_weights": "stable-diffusion-1.5",
                    "image": {
                        "prompt": [{"prompt": "a cat [dogs, mice]", "weight": 1.0}],
                        "steps": 50,
                        "cfg_scale": 7.5,
                        "seed": 5,
                        "width": 512,
                        "height": 512,
                        "sampler": "k_lms",
                    },
                },
                "Dream": '"another" -s 1',
            },
            Parameters(
                *("a cat", "dogs, mice", 50, "k_lms", 7.5, 5, 512, 512),
                model="stable-diffusion-1.5",
            ),
        ),
        (
            {"Dream": '"a \\"cat\\" [dogs]" -s 50 -S 5 -W512 -H 768 -C 7.5 -A k_lms'},
            Parameters('a \\"cat\\"', "dogs", 50, "k_lms", 7.5, 5, 512, 768),
        ),
        (
            {
                "parameters": {
                    "prompt": "a cat",
                    "negative_prompt": "dogs",
                    "steps": 30,
                    "guidance_scale": 4.0,
                    "resolution": "(896, 1152)",
                    "seed": "5",
                    "sampler": "dpmpp_2m_sde_gpu",
                    "base_model": "juggernaut",
                    "loras": [["ink", 0.1, "hash"]],
                },
                "fooocus_scheme": "fooocus",
            },
            Parameters(
                *("a cat", "dogs", 30, "dpmpp_2m_sde_gpu", 4.0, 5, 896, 1152),
                model="juggernaut",
                loras=(("ink", 0.1),),
            ),
        ),
        (
            {
                "parameters": {
                    "sui_image_params": {
                        "prompt": "a cat",
                        "negativeprompt": "dogs",
                        "model": "sdxl/dreamer.safetensors",
                        "seed": 5,
                        "steps": 8,
                        "cfgscale": 1.0,
                        "width": 1024,
                        "height": 1024,
                    }
                }
            },
            Parameters("a cat", "dogs", 8, "", 1.0, 5, 1024, 1024, model="dreamer"),
        ),
        (
            {
                "Software": "NovelAI",
                "Description": "a cat",
                "Comment": {
                    "prompt": "a cat",
                    "uc": "dogs",
                    "steps": 28,
                    "scale": 5.0,
                    "seed": 5,
                    "width": 832,
                    "height": 1216,
                    "sampler": "k_euler",
                },
            },
            Parameters("a cat", "dogs", 28, "k_euler", 5.0, 5, 832, 1216),
        ),
    ],
    ids=["InvokeAI", "InvokeAI 3", "sd-metadata", "Dream", "Fooocus", "SwarmUI", "NovelAI"],
)
def test_other_programs_are_read(texts: dict[str, Any], expected: Parameters) -> None:
    said = {
        name: text if isinstance(text, str) else json.dumps(text) for name, text in texts.items()
    }
    assert parameters_of(png(**said)) == expected


def test_a_prompt_that_begins_with_alternatives_is_no_json() -> None:
    found = programs.read({"parameters": "{cat|dog}\nSteps: 3, Seed: 4, Size: 64x64"})
    assert (found.prompt, found.steps) == ("{cat|dog}", 3)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ({}, "does not say how"),
        ({"Comment": "Created with GIMP"}, "does not say how"),
        ({"invokeai_metadata": "[]"}, "does not say how"),
        ({"invokeai_metadata": '{"app_version": "4"}'}, "does not say how"),
        ({"invokeai_metadata": "x" * 100_001}, "far too long"),
        ({"Dream": "x" * 100_001}, "far too long"),
        ({"workflow": '{"nodes": []}'}, "drawing of its nodes alone"),
    ],
)
def test_what_does_not_say_so_is_a_sentence(texts: dict[str, str], sentence: str) -> None:
    with pytest.raises(ParametersError, match=sentence):
        programs.read(texts)


NAMES = st.sampled_from(sorted({name for names in programs.NAMES.values() for name in names}))
VALUES = st.dictionaries(NAMES | st.sampled_from(["image", "loras", "sui_image_params"]), JSON)
WHERE = st.sampled_from(["parameters", "invokeai_metadata", "sd-metadata", "Comment", "Dream"])


@given(WHERE, VALUES.map(json.dumps) | st.text() | st.text('" -sSWHCA\\[]19.ab'))
def test_no_text_does_harm(name: str, text: str) -> None:
    with contextlib.suppress(ParametersError):
        assert isinstance(programs.read({name: text}), Parameters)


@given(st.dictionaries(st.sampled_from(["image", "loras"]), st.dictionaries(NAMES, JSON)))
def test_no_older_settings_do_harm(values: dict[str, Any]) -> None:
    with contextlib.suppress(ParametersError):
        programs.read({"sd-metadata": json.dumps(values)})
