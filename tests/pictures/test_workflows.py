"""Workflows for ComfyUI and settings for A1111: read back by the studio and by another program, and
their steps held against the studio's own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from studio.maths.schedules import ddim_step
from studio.models.levels import DiffusionLevels, FlowLevels
from studio.models.parts import sd_scheduler
from studio.pictures import comfyui, infotext, workflows
from studio.pictures.infotext import Parameters
from studio.pictures.workflows import Drawing

MADE = Parameters(
    prompt="a red (apple:1.2)",
    negative_prompt="blurry",
    steps=20,
    guidance=3.5,
    seed=2**40 + 7,
    width_px=512,
    height_px=768,
    eta=1.0,
    model="owl",
    loras=(("Mine", 0.8),),
)
PLAIN = Drawing(MADE, "a red (apple:1.2)", "blurry")

# ComfyUI's nodes: their inputs in order and the types of those that are links, as nodes.py and
# nodes_model_advanced.py of ComfyUI 0.3.64 define them.
INPUTS = {
    "CheckpointLoaderSimple": {"ckpt_name": ""},
    "VAELoader": {"vae_name": ""},
    "LoraLoader": {
        "model": "MODEL",
        "clip": "CLIP",
        "lora_name": "",
        "strength_model": "",
        "strength_clip": "",
    },
    "ModelSamplingDiscrete": {"model": "MODEL", "sampling": "", "zsnr": ""},
    "ModelSamplingSD3": {"model": "MODEL", "shift": ""},
    "CLIPSetLastLayer": {"clip": "CLIP", "stop_at_clip_layer": ""},
    "CLIPTextEncode": {"text": "", "clip": "CLIP"},
    "ConditioningZeroOut": {"conditioning": "CONDITIONING"},
    "EmptyLatentImage": {"width": "", "height": "", "batch_size": ""},
    "KSampler": {
        "model": "MODEL",
        "seed": "",
        "steps": "",
        "cfg": "",
        "sampler_name": "",
        "scheduler": "",
        "positive": "CONDITIONING",
        "negative": "CONDITIONING",
        "latent_image": "LATENT",
        "denoise": "",
    },
    "VAEDecode": {"samples": "LATENT", "vae": "VAE"},
    "SaveImage": {"images": "IMAGE", "filename_prefix": ""},
}
OUTPUTS = {
    "CheckpointLoaderSimple": ["MODEL", "CLIP", "VAE"],
    "LoraLoader": ["MODEL", "CLIP"],
    "VAELoader": ["VAE"],
}

TEXTS = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=30)
DRAWINGS = st.builds(
    Drawing,
    made=st.builds(
        lambda loras, vae, eta, steps: replace(
            MADE, loras=tuple(loras), more=vae, eta=eta, steps=steps
        ),
        st.lists(st.tuples(st.sampled_from(["Mine", "style"]), st.floats(-2, 2)), max_size=3),
        st.sampled_from([{}, {"VAE": "soft.safetensors"}]),
        st.floats(0, 1),
        st.integers(1, 150),
    ),
    comfy_prompt=TEXTS,
    comfy_negative=TEXTS,
    prediction_type=st.sampled_from(["epsilon", "v_prediction", "flow_prediction"]),
    zero_snr=st.booleans(),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
    shift=st.none() | st.floats(1, 5),
    clip_layer=st.none() | st.integers(-12, -1),
    zero_negative=st.booleans(),
)


def kinds(drawing: Drawing) -> list[str]:
    return [node["class_type"] for node in workflows.workflow(drawing, "x").values()]


def inputs_of(drawing: Drawing, kind: str) -> dict:
    nodes = workflows.workflow(drawing, "x").values()
    [found] = [node["inputs"] for node in nodes if node["class_type"] == kind]
    return found


# --- ComfyUI's forms ----------------------------------------------------------------------------


@given(DRAWINGS)
def test_every_node_has_the_inputs_that_comfyui_asks_for(drawing):
    nodes = workflows.workflow(drawing, "x")
    for key, node in nodes.items():
        asked = INPUTS[node["class_type"]]
        assert list(node["inputs"]) == list(asked)
        for name, value in node["inputs"].items():
            assert isinstance(value, list) == bool(asked[name])
            if isinstance(value, list):
                source, output = value
                assert int(source) < int(key)  # computed before
                kind = nodes[source]["class_type"]
                given_ = OUTPUTS.get(kind) or list(workflows.OUTPUTS[kind])
                assert given_[output] == asked[name]


@given(DRAWINGS, TEXTS)
def test_the_pages_form_holds_the_same_workflow(drawing, note):
    """Back into the API's form, as ComfyUI's page does it: links by their numbers, and the other
    inputs in the order in which the node defines them."""
    nodes = workflows.workflow(drawing, "x")
    page = json.loads(json.dumps(workflows.page(nodes, note)))
    assert (page["version"], page["last_link_id"]) == (0.4, len(page["links"]))
    links = {link[0]: link for link in page["links"]}
    back = {}
    for node in page["nodes"]:
        for slot, output in enumerate(node["outputs"]):
            for number in output["links"]:
                assert links[number][1:3] == [node["id"], slot]
                assert links[number][5] == output["type"]
        for slot, given_ in enumerate(node["inputs"]):
            assert links[given_["link"]][3:] == [node["id"], slot, given_["type"]]
        if node["type"] == "Note":
            assert node["widgets_values"] == [note]
            continue
        values = iter(node["widgets_values"])
        sockets = {one["name"]: links[one["link"]] for one in node["inputs"]}
        inputs = {}
        for name, type_ in INPUTS[node["type"]].items():
            inputs[name] = [str(sockets[name][1]), sockets[name][2]] if type_ else next(values)
            if name == "seed":
                assert next(values) == "fixed"
        assert not list(values)
        back[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    assert back == nodes
    places = [tuple(node["pos"]) for node in page["nodes"]]
    assert len(set(places)) == len(places)  # none lies over another


def test_the_studio_reads_its_own_workflow():
    drawing = replace(PLAIN, made=replace(MADE, loras=(("Mine", 0.8), ("style", 0.5))))
    found = comfyui.read(json.dumps(workflows.workflow(drawing, "x")))
    assert found == Parameters(
        prompt="a red (apple:1.2)",
        negative_prompt="blurry",
        steps=20,
        sampler="euler_ancestral",
        guidance=3.5,
        seed=2**40 + 7,
        width_px=512,
        height_px=768,
        model="owl",
        loras=(("style", 0.5), ("Mine", 0.8)),  # the nearest to the sampler first
    )


def test_layers_of_the_text_encoder_are_read_back():
    found = comfyui.read(json.dumps(workflows.workflow(replace(PLAIN, clip_layer=-2), "x")))
    assert found.clip_skip == 2


@pytest.mark.parametrize(
    ("changes", "node", "wanted"),
    [
        ({"prediction_type": "v_prediction"}, "ModelSamplingDiscrete", ("v_prediction", False)),
        ({"zero_snr": True}, "ModelSamplingDiscrete", ("eps", True)),
        ({"prediction_type": "flow_prediction", "shift": 2.5}, "ModelSamplingSD3", (2.5,)),
    ],
)
def test_what_the_network_predicts_is_told_to_comfyui(changes, node, wanted):
    drawing = replace(PLAIN, **changes)
    inputs = inputs_of(drawing, node)
    key = next(k for k, n in workflows.workflow(drawing, "x").items() if n["class_type"] == node)
    assert inputs_of(drawing, "KSampler")["model"] == [key, 0]
    del inputs["model"]
    assert tuple(inputs.values()) == wanted
    assert not {"ModelSamplingDiscrete", "ModelSamplingSD3"} & set(kinds(PLAIN))


def test_a_vae_of_its_own_and_an_empty_negative_prompt():
    drawing = replace(
        PLAIN,
        made=replace(MADE, more={"VAE": "soft.safetensors"}),
        comfy_negative="",
        zero_negative=True,
    )
    nodes = workflows.workflow(drawing, "x")
    loader = inputs_of(drawing, "VAEDecode")["vae"][0]
    assert nodes[loader] == {"class_type": "VAELoader", "inputs": {"vae_name": "soft.safetensors"}}
    negative = nodes[inputs_of(drawing, "KSampler")["negative"][0]]
    assert negative["class_type"] == "ConditioningZeroOut"
    assert "ConditioningZeroOut" not in kinds(replace(drawing, comfy_negative="dull"))
    assert "ConditioningZeroOut" not in kinds(replace(drawing, zero_negative=False))


def test_up_to_a_guidance_of_one_there_is_none():
    drawing = replace(PLAIN, made=replace(MADE, guidance=0.0))
    assert inputs_of(drawing, "KSampler")["cfg"] == 1.0
    assert workflows.settings(drawing).guidance == 1.0


# --- the same steps -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eta", "kind", "wanted"),
    [
        (0.0, "epsilon", "ddim"),
        (0.6, "epsilon", "ddim"),
        (1.0, "v_prediction", "euler_ancestral"),
        (0.0, "flow_prediction", "euler"),
        (0.3, "flow_prediction", "euler_ancestral"),
    ],
)
def test_the_nearest_sampler(eta, kind, wanted):
    drawing = replace(PLAIN, made=replace(MADE, eta=eta), prediction_type=kind)
    assert workflows.sampler(drawing) == wanted


def test_ddim_with_all_noise_is_an_ancestral_euler_step():
    """k-diffusion's step in units of sigma = sqrt(1 - a) / sqrt(a): down to sigma_down, and up with
    noise. alpha_bar 0.2 is sigma 2, and 0.5 is sigma 1: up = sqrt(1 · (4 - 1) / 4), and down =
    sqrt(1 - up²) = 1/2."""
    step = ddim_step(torch.tensor(0.2), torch.tensor(0.5), 1.0)
    scale = 0.5**0.5  # alpha of the next level
    assert step.s.item() / scale == pytest.approx(0.75**0.5)
    assert step.direction.item() / scale == pytest.approx(0.5)


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_the_scheduler_visits_the_studios_timesteps(steps, zero_snr):
    levels = DiffusionLevels(sd_scheduler(zero_snr=zero_snr), torch.device("cpu"))
    spacing = levels.scheduler.config.timestep_spacing
    made = replace(MADE, steps=steps)
    named = workflows.scheduler(replace(PLAIN, made=made, spacing=spacing))
    comfy = {  # as its schedulers choose among the 1000 levels of a model
        "ddim_uniform": list(range(1, 1000, 1000 // steps))[::-1],
        "simple": [999 - int(n * 1000 / steps) for n in range(steps)],
    }
    assert named == ("simple" if zero_snr else "ddim_uniform")
    assert levels.schedule(steps).timesteps.tolist() == comfy[named]


def test_a_single_step_begins_at_the_last_timestep():
    levels = DiffusionLevels(sd_scheduler(), torch.device("cpu"))
    assert levels.schedule(1).timesteps.tolist() == [999]
    assert workflows.scheduler(replace(PLAIN, made=replace(MADE, steps=1))) == "simple"


def test_a_flow_visits_the_studios_levels():
    """ComfyUI's `normal`: evenly from the last shifted level to the first, and shifted again."""

    def shifted(sigma: torch.Tensor) -> torch.Tensor:
        return 3 * sigma / (1 + 2 * sigma)

    levels = FlowLevels(FlowMatchEulerDiscreteScheduler(shift=3.0), torch.device("cpu"))
    first = shifted(torch.tensor(0.001)).item()
    wanted = shifted(torch.linspace(1, first, 20))
    assert torch.allclose(levels.schedule(20).sigma, wanted, atol=1e-5)
    drawing = replace(PLAIN, prediction_type="flow_prediction")
    assert workflows.scheduler(drawing) == "normal"


# --- A1111 --------------------------------------------------------------------------------------


def test_settings_for_a1111():
    assert infotext.write(workflows.settings(PLAIN)) == (
        "a red (apple:1.2) <lora:Mine:0.8>\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: DDIM, CFG scale: 3.5, Seed: 1099511627783, Size: 512x768, "
        "Model: owl, Eta DDIM: 1, RNG: CPU"
    )
    flow = replace(PLAIN, made=replace(MADE, eta=0.3), prediction_type="flow_prediction", shift=3.0)
    assert infotext.write(workflows.settings(flow)).endswith(
        "Steps: 20, Sampler: Euler a, CFG scale: 3.5, Seed: 1099511627783, Size: 512x768, "
        "Model: owl, RNG: CPU, Schedule type: Normal"
    )
    zero = workflows.settings(replace(PLAIN, zero_snr=True))
    assert zero.more["Noise Schedule"] == "Zero Terminal SNR"


def test_the_studio_reads_its_settings_for_a1111():
    found = infotext.read(infotext.write(workflows.settings(PLAIN)))
    assert found == replace(MADE, sampler="DDIM", more={"RNG": "CPU"})


def test_another_program_reads_both():
    """sd-parsers, which reads the pictures of A1111 and ComfyUI."""
    parsers = pytest.importorskip("sd_parsers.parsers")
    text = infotext.write(workflows.settings(PLAIN))
    [drawn] = parsers.AUTOMATIC1111Parser().parse({"parameters": text}).samplers
    assert drawn.name == "DDIM"
    assert drawn.model.name == "owl"
    assert [prompt.value for prompt in drawn.prompts] == ["a red (apple:1.2) <lora:Mine:0.8>"]
    assert [prompt.value for prompt in drawn.negative_prompts] == ["blurry"]
    assert drawn.parameters == {"cfg_scale": "3.5", "seed": "1099511627783", "steps": "20"}

    nodes = workflows.workflow(PLAIN, "x")
    both = {"prompt": json.dumps(nodes), "workflow": json.dumps(workflows.page(nodes, "a note"))}
    [drawn] = parsers.ComfyUIParser().parse(both).samplers
    assert drawn.name == "euler_ancestral"
    assert drawn.model.metadata["lora_name"] == "Mine.safetensors"  # it goes no further back
    assert [prompt.value for prompt in drawn.prompts] == ["a red (apple:1.2)"]
    assert [prompt.value for prompt in drawn.negative_prompts] == ["blurry"]
    wanted = {"cfg_scale": 3.5, "seed": 2**40 + 7, "steps": 20, "scheduler": "ddim_uniform"}
    assert drawn.parameters.items() >= wanted.items()


# --- what is said -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "made", "words"),
    [
        ({"is_file": False}, {}, "“owl.safetensors” stands for its checkpoint"),
        ({}, {"eta": 0.0}, "not the same one to the bit"),
        ({}, {"eta": 0.5}, "its steps add no noise, and the studio’s do (eta 0.5)"),
        ({}, {"steps": 30}, "takes 31 steps where the studio takes 30"),
        ({"prediction_type": "flow_prediction"}, {}, "A1111 cannot draw with a rectified flow"),
        ({"spacing": "trailing"}, {}, "A1111 spaces the steps of DDIM in another way"),
        ({}, {"more": {"TI hashes": "soft: 1"}}, "write embedding: before"),
    ],
)
def test_what_differs_is_said(changes, made, words):
    usual = " ".join(workflows.remarks(PLAIN))
    assert usual == (
        "ComfyUI draws a picture like the studio’s, not the same one: the noise within the steps "
        "is another."
    )
    said = " ".join(workflows.remarks(replace(PLAIN, made=replace(MADE, **made), **changes)))
    assert words in said


def test_the_files():
    texts = workflows.files(PLAIN, "50% \ud800", "A note.")
    assert list(texts) == [
        "50% \ud800-comfyui.json",
        "50% \ud800-comfyui-api.json",
        "50% \ud800-a1111.txt",
    ]
    for text in texts.values():
        text.encode()
    page, nodes, settings = texts.values()
    assert json.loads(page)["nodes"][-1]["widgets_values"] == ["A note."]
    assert json.loads(nodes)["1"]["class_type"] == "CheckpointLoaderSimple"
    assert inputs_of(PLAIN, "SaveImage")["filename_prefix"] == "x"
    assert [*json.loads(nodes).values()][-1]["inputs"]["filename_prefix"].startswith("50")
    assert settings.startswith("a red (apple:1.2) <lora:Mine:0.8>\n")
