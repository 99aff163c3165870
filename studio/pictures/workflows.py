"""How a picture was drawn, for ComfyUI and A1111 to draw it again with the same LoRA.

The picture is alike and not the same to the bit, because steps and noise differ a little:

    steps   DDIM with eta is an ancestral Euler step: with sigma² = 1 / alpha_bar - 1, the two add
            the same noise. ComfyUI's sampler `ddim` has eta 0 and `euler_ancestral` 1; between the
            two the nearer one is named. In a rectified flow `euler_ancestral` replaces about as
            much noise as Flow-CPS with eta 0.3, by another rule.
    levels  ComfyUI's `ddim_uniform` is diffusers' "leading" from timestep 1, with one step more if
            1000 is not divisible by the number of steps; `simple` is "trailing"; `normal` is
            "linspace", and the levels of a flow with its shift. Both tools end without noise, the
            studio at the first level (0.03 of noise). A1111's DDIM is "leading" always.
    noise   ComfyUI, and A1111 with `RNG: CPU`, draw the noise at the start on the processor, as the
            studio does, from the same seed. The noise within steps has another seed in each.

ComfyUI has a workflow in two forms: that of its API, {"1": {"class_type", "inputs"}}, in which an
input is a value or a link [id of a node, number of its output]; and that of its page, which has
places, sizes and links of their own. The second is made from the first.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from studio.pictures import infotext
from studio.pictures.infotext import Parameters, encodable

TRAINED_STEPS = 1000  # timesteps of every model's training
SCHEDULERS = {"leading": "ddim_uniform", "trailing": "simple", "linspace": "normal"}
# From here on the ancestral sampler replaces a more similar part of the noise's variance than one
# without noise: half of it in diffusion, a tenth in a flow.
LEAST_NOISY_ETA, LEAST_NOISY_FLOW_ETA = 0.7, 0.2

# The outputs of ComfyUI's nodes, which are all called like their types.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "CheckpointLoaderSimple": ("MODEL", "CLIP", "VAE"),
    "VAELoader": ("VAE",),
    "LoraLoader": ("MODEL", "CLIP"),
    "ModelSamplingDiscrete": ("MODEL",),
    "ModelSamplingSD3": ("MODEL",),
    "CLIPSetLastLayer": ("CLIP",),
    "CLIPTextEncode": ("CONDITIONING",),
    "ConditioningZeroOut": ("CONDITIONING",),
    "EmptyLatentImage": ("LATENT",),
    "KSampler": ("LATENT",),
    "VAEDecode": ("IMAGE",),
    "SaveImage": (),
}
NODE_PX, COLUMN_PX, ROW_PX = (320, 180), 380, 260  # on ComfyUI's page
VERSION = 0.4  # of the page's form

Workflow = dict[str, dict[str, Any]]  # in the API's form


@dataclass(frozen=True)
class Drawing:
    """A picture and what its model needs.

    made: its settings, with prompts in A1111's syntax; LoRAs and the model by the names of their
    files without the ending. comfy_prompt, comfy_negative: the same prompts in ComfyUI's syntax.
    prediction_type, spacing: in diffusers' names. shift: of a flow. clip_layer: counted from the
    last, -1; None: the model's own. zero_negative: no negative prompt is zeros. is_file: the model
    is one file, whose name is known.
    """

    made: Parameters
    comfy_prompt: str
    comfy_negative: str
    prediction_type: str = "epsilon"
    zero_snr: bool = False
    spacing: str = "leading"
    shift: float | None = None
    clip_layer: int | None = None
    zero_negative: bool = False
    is_file: bool = True

    @property
    def is_flow(self) -> bool:
        return self.prediction_type == "flow_prediction"

    @property
    def is_noisy(self) -> bool:
        """Whether an ancestral sampler is nearer to its steps than one without noise."""
        least = LEAST_NOISY_FLOW_ETA if self.is_flow else LEAST_NOISY_ETA
        return (self.made.eta or 0.0) >= least


# --- ComfyUI -------------------------------------------------------------------------------------


def sampler(drawing: Drawing) -> str:
    """ComfyUI's sampler that is nearest."""
    if drawing.is_noisy:
        return "euler_ancestral"
    return "euler" if drawing.is_flow else "ddim"


def scheduler(drawing: Drawing) -> str:
    """ComfyUI's scheduler with the same levels. Its `ddim_uniform` fails at a single step, which
    the studio takes from the last timestep."""
    if drawing.is_flow:
        return "normal"
    return "simple" if drawing.made.steps == 1 else SCHEDULERS.get(drawing.spacing, "normal")


def workflow(drawing: Drawing, prefix: str) -> Workflow:
    """ComfyUI's workflow in the API's form. prefix: of the files that it saves.

    The nodes are in an order in which they can be computed.
    """
    made = drawing.made
    nodes: Workflow = {}

    def node(kind: str, **inputs: Any) -> str:
        key = str(len(nodes) + 1)
        nodes[key] = {"class_type": kind, "inputs": inputs}
        return key

    checkpoint = node("CheckpointLoaderSimple", ckpt_name=f"{made.model}.safetensors")
    model, clip, vae = [checkpoint, 0], [checkpoint, 1], [checkpoint, 2]
    if "VAE" in made.more:
        vae = [node("VAELoader", vae_name=made.more["VAE"]), 0]
    for name, strength in made.loras:
        loader = node(
            "LoraLoader",
            model=model,
            clip=clip,
            lora_name=f"{name}.safetensors",
            strength_model=strength,
            strength_clip=strength,
        )
        model, clip = [loader, 0], [loader, 1]
    if drawing.is_flow:
        model = [node("ModelSamplingSD3", model=model, shift=drawing.shift or 1.0), 0]
    elif drawing.prediction_type == "v_prediction" or drawing.zero_snr:
        kind = "eps" if drawing.prediction_type == "epsilon" else drawing.prediction_type
        patch = node("ModelSamplingDiscrete", model=model, sampling=kind, zsnr=drawing.zero_snr)
        model = [patch, 0]
    if drawing.clip_layer is not None:
        layer = drawing.clip_layer
        clip = [node("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=layer), 0]
    positive = [node("CLIPTextEncode", text=drawing.comfy_prompt, clip=clip), 0]
    negative = [node("CLIPTextEncode", text=drawing.comfy_negative, clip=clip), 0]
    if drawing.zero_negative and not drawing.comfy_negative:
        negative = [node("ConditioningZeroOut", conditioning=negative), 0]
    empty = node("EmptyLatentImage", width=made.width_px, height=made.height_px, batch_size=1)
    sampled = node(
        "KSampler",
        model=model,
        seed=made.seed,
        steps=made.steps,
        cfg=_guidance(made),
        sampler_name=sampler(drawing),
        scheduler=scheduler(drawing),
        positive=positive,
        negative=negative,
        latent_image=[empty, 0],
        denoise=1.0,
    )
    picture = node("VAEDecode", samples=[sampled, 0], vae=vae)
    node("SaveImage", images=[picture, 0], filename_prefix=prefix)
    return nodes


def _guidance(made: Parameters) -> float:
    """Up to 1 the studio draws with the prompt alone, which is 1 in the tools."""
    return max(1.0, made.guidance or 0.0)


def page(nodes: Workflow, note: str) -> dict[str, Any]:
    """A workflow in the form that ComfyUI's page opens, with a note beside its nodes."""
    drawn: dict[str, dict[str, Any]] = {}
    links: list[list[Any]] = []
    columns: Counter[int] = Counter()  # how many nodes stand in each
    column_of: dict[str, int] = {}
    for order, (key, node) in enumerate(nodes.items()):
        kind, inputs, widgets = node["class_type"], [], []
        for name, value in node["inputs"].items():
            if not isinstance(value, list):
                widgets.append(value)
                # The page keeps after a seed how the next one is found.
                widgets += ["fixed"] if name == "seed" else []
                continue
            source, output = value
            type_ = OUTPUTS[nodes[source]["class_type"]][output]
            number = len(links) + 1
            links.append([number, int(source), output, int(key), len(inputs), type_])
            drawn[source]["outputs"][output]["links"].append(number)
            inputs.append({"name": name, "type": type_, "link": number})
        links_here = [value[0] for value in node["inputs"].values() if isinstance(value, list)]
        column_of[key] = max((column_of[source] + 1 for source in links_here), default=0)
        place = column_of[key] * COLUMN_PX, columns[column_of[key]] * ROW_PX
        columns[column_of[key]] += 1
        outputs = [
            {"name": type_, "type": type_, "links": [], "slot_index": slot}
            for slot, type_ in enumerate(OUTPUTS[kind])
        ]
        drawn[key] = _on_page(int(key), kind, place, order, inputs, outputs, widgets)
        drawn[key]["properties"] = {"Node name for S&R": kind}
    last = len(nodes) + 1
    under = 0, columns[0] * ROW_PX
    drawn[str(last)] = _on_page(last, "Note", under, len(nodes), [], [], [note])
    return {
        "last_node_id": last,
        "last_link_id": len(links),
        "nodes": list(drawn.values()),
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": VERSION,
    }


def _on_page(
    key: int,
    kind: str,
    place: tuple[int, int],
    order: int,
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    widgets: list[Any],
) -> dict[str, Any]:
    return {
        "id": key,
        "type": kind,
        "pos": list(place),
        "size": list(NODE_PX),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        "properties": {},
        "widgets_values": widgets,
    }


# --- A1111 ---------------------------------------------------------------------------------------


def settings(drawing: Drawing) -> Parameters:
    """The settings as A1111 and Forge read them back."""
    made = drawing.made
    more = made.more | {"RNG": "CPU"}
    if drawing.is_flow:
        name, eta = "Euler a" if drawing.is_noisy else "Euler", None
        more["Schedule type"] = "Normal"
    else:
        name, eta = "DDIM", made.eta
    if drawing.zero_snr:
        more["Noise Schedule"] = "Zero Terminal SNR"
    return replace(made, sampler=name, eta=eta, guidance=_guidance(made), more=more)


# --- both ----------------------------------------------------------------------------------------


def remarks(drawing: Drawing) -> list[str]:
    """Sentences for the artist: what to choose there, and what differs."""
    made, eta = drawing.made, drawing.made.eta or 0.0
    found = []
    if not drawing.is_file:
        found.append(
            f"The studio’s model is a folder: “{made.model}.safetensors” stands for its "
            "checkpoint. Choose yours."
        )
    same = "ComfyUI draws a picture like the studio’s, not the same one"
    if eta == 0:
        found.append(f"{same} to the bit.")
    elif drawing.is_noisy:
        found.append(f"{same}: the noise within the steps is another.")
    else:
        found.append(f"{same}: its steps add no noise, and the studio’s do (eta {eta:g}).")
    if scheduler(drawing) == "ddim_uniform" and made.steps:
        taken = len(range(1, TRAINED_STEPS, TRAINED_STEPS // made.steps))
        if taken != made.steps:
            found.append(f"It takes {taken} steps where the studio takes {made.steps}.")
    if drawing.is_flow:
        found.append("A1111 cannot draw with a rectified flow; Forge can.")
    elif drawing.spacing != "leading":
        found.append("A1111 spaces the steps of DDIM in another way.")
    if "TI hashes" in made.more:
        found.append(
            "In ComfyUI write embedding: before the name of each textual inversion in the prompts."
        )
    return found


def files(drawing: Drawing, name: str, note: str) -> dict[str, str]:
    """The texts of the files for other tools, by their names."""
    nodes = workflow(drawing, _prefix(name))
    texts = {
        f"{name}-comfyui.json": _text(page(nodes, note)),
        f"{name}-comfyui-api.json": _text(nodes),
        f"{name}-a1111.txt": f"{infotext.write(settings(drawing))}\n",
    }
    return {file: encodable(text) for file, text in texts.items()}


def _prefix(name: str) -> str:
    """A name without what ComfyUI replaces in names of files."""
    return re.sub(r"[%\\/]", " ", name).strip() or "ComfyUI"


def _text(document: Any) -> str:
    return f"{json.dumps(document, ensure_ascii=False, indent=2)}\n"
