"""How ComfyUI made a picture: its graph of nodes, followed from the picture back to its sampler.

A PNG of ComfyUI carries the graph as JSON, in which a node is {"class_type", "inputs"} and an input
either a value or a link [id of a node, number of its output]. Anybody can write nodes of their own,
so that an input's name says more than a node's class: what is read is found by the names that
nodes of all kinds share. What cannot be followed is named.

Graphs come from anywhere. They may be circles, and as long as a text can be: every walk comes to a
node once, and none calls itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from studio.pictures.infotext import Parameters, ParametersError, encodable

MOST_CHARACTERS = 1_000_000
# Beyond what people draw with; one that has more is read in part.
LONGEST_WALK = 300  # nodes
LONGEST_CHAIN = 20  # nodes that only hand a value on
MOST_INPUTS = 100  # of a node
MOST_ENDS = 50  # nodes that nothing follows

SAMPLES = ("latent_image", "latent", "samples", "images", "image", "pixels")  # the way to a picture
TEXTS = ("text", "text_g", "text_l", "string", "prompt", "value", "clip_l", "t5xxl")
PARTS = ("guider", "sigmas", "noise", "sampler")  # of a sampler, in nodes of their own
SEEDS = ("seed", "noise_seed")
NUMBERS = ("value", "int", "float", "number", *SEEDS)  # of nodes that only hold one
EMPTY = "ConditioningZeroOut"  # in place of a prompt: none at all


@dataclass(frozen=True)
class Node:
    kind: str
    inputs: Mapping[str, Any]

    def link(self, name: str) -> tuple[str, int] | None:
        """The node that an input comes from, by its id, and which of its outputs."""
        match self.inputs.get(name):
            case [str() | int() as node, int() as output]:
                return str(node), output
        return None

    def links(self) -> list[str]:
        """The names of inputs that come from other nodes."""
        return [name for name in self.inputs if self.link(name) is not None]


class Graph:
    """Nodes by their ids; whatever else a document holds is left out."""

    def __init__(self, document: Any) -> None:
        self.nodes: dict[str, Node] = {}
        if isinstance(document, dict):
            for key, node in document.items():
                match node:
                    case {"class_type": str() as kind, "inputs": dict() as inputs}:
                        self.nodes[key] = Node(kind, dict(islice(inputs.items(), MOST_INPUTS)))

    def behind(self, node: Node, names: tuple[str, ...]) -> Iterator[Node]:
        """The nodes that lie behind one by inputs of these names, the nearest first."""
        seen: set[str] = set()
        to_come = [node]
        while to_come and len(seen) < LONGEST_WALK:
            here = to_come.pop(0)
            for name in names:
                link = here.link(name)
                if link is None or link[0] in seen or link[0] not in self.nodes:
                    continue
                seen.add(link[0])
                to_come.append(self.nodes[link[0]])
                yield to_come[-1]

    def value(self, node: Node, names: tuple[str, ...]) -> Any:
        """A number or text of a sampler: its own, of one of its parts, or of a node that holds
        nothing else. None where there is none."""
        for one in (node, *self.behind(node, PARTS)):
            for name in names:
                if name not in one.inputs:
                    continue
                link = one.link(name)
                if link is None:
                    return one.inputs[name]
                if (held := self._held(link, names)) is not None:
                    return held
        return None

    def _held(self, link: tuple[str, int] | None, names: tuple[str, ...]) -> Any:
        """The value behind a link, through nodes that have no other."""
        for _ in range(LONGEST_CHAIN):
            node = self.nodes.get(link[0]) if link else None
            if node is None:
                return None
            for name in (*names, *NUMBERS):
                if name in node.inputs and node.link(name) is None:
                    return node.inputs[name]
            links = node.links()
            link = node.link(links[0]) if len(links) == 1 else None
        return None

    def text(self, start: tuple[str, int] | None, side: str) -> tuple[list[str], set[str]]:
        """The texts behind the link of a conditioning, and the kinds of nodes that hide others.

        side: "positive" or "negative", where a node has both.
        """
        texts: dict[str, None] = {}  # in order, each once
        unread: set[str] = set()
        seen: set[str] = set()
        to_come = [start] if start else []
        while to_come and len(seen) < LONGEST_WALK:
            key, _ = to_come.pop()
            node = self.nodes.get(key)
            if node is None or key in seen or node.kind == EMPTY:
                continue
            seen.add(key)
            both = {"positive", "negative"} <= node.inputs.keys()
            names = [side] if both else [name for name in node.inputs if _says_text(name, side)]
            if not names:  # a node that only hands on
                names = [name for name in node.links() if name not in ("clip", "model", "vae")]
                names = names if len(names) == 1 else []
            written = [node.inputs[name] for name in names if isinstance(node.inputs[name], str)]
            links = [link for name in names if (link := node.link(name)) is not None]
            texts |= dict.fromkeys(text.strip() for text in written if text.strip())
            to_come += reversed(links)
            if not written and not links:
                unread.add(node.kind)
        return list(texts), unread


def _says_text(name: str, side: str) -> bool:
    """Whether an input of this name is, or leads to, a prompt."""
    return (
        name in TEXTS
        or name in (side, f"{side}_prompt", "basic_conditioning")
        or name.startswith(("conditioning", "text_", "string_", "text1", "text2", "string1"))
    )


def read(prompt: str) -> Parameters:
    """What the graph says, as ComfyUI keeps it under `prompt`.

    Raises ParametersError when there is no sampler in it.
    """
    if len(prompt) > MOST_CHARACTERS:
        raise ParametersError("What this picture says of its settings is far too long to be real.")
    try:
        graph = Graph(json.loads(prompt))
    except (ValueError, RecursionError) as error:
        raise ParametersError("ComfyUI’s settings in this picture are damaged.") from error
    samplers = _samplers(graph)
    if not samplers:
        raise ParametersError(
            "This picture is of ComfyUI, and no sampler is among its nodes: how it was drawn "
            "cannot be read."
        )
    sampler = samplers[-1]
    guided = next((one for one in (sampler, *graph.behind(sampler, PARTS)) if _prompts(one)), None)
    positive, unread = graph.text(_prompt_link(guided, "positive"), "positive")
    negative, also_unread = graph.text(_prompt_link(guided, "negative"), "negative")
    size = next(filter(None, map(_size, graph.behind(sampler, SAMPLES))), (None, None))
    seed = _whole(graph.value(sampler, SEEDS))
    steps = _whole(graph.value(sampler, ("steps",)))
    guidance = _number(graph.value(sampler, ("cfg",)))
    if not any("cfg" in one.inputs for one in (sampler, *graph.behind(sampler, PARTS))):
        guidance = 1.0  # there is none: the network is asked with the prompt alone
    remarks = []
    if len(samplers) > 1:
        remarks.append(
            f"It was drawn in {len(samplers)} passes of ComfyUI; what the first did is read."
        )
    missing = [
        what
        for what, is_read in (
            ("prompt", bool(positive)),
            ("seed", seed is not None),
            ("steps", steps is not None),
            ("guidance", guidance is not None),
            ("size", size[0] is not None),
        )
        if not is_read
    ]
    if missing:
        remarks.append(f"Not found among ComfyUI’s nodes: its {' and '.join(missing)}.")
    if hidden := sorted(unread | also_unread):
        named = ", ".join(f"“{encodable(kind)[:60]}”" for kind in hidden[:5])
        remarks.append(f"What these nodes add to its prompts is not read: {named}.")
    models = [sampler, *graph.behind(sampler, ("model", *PARTS))]
    return Parameters(
        prompt=encodable(", ".join(positive)),
        negative_prompt=encodable(", ".join(negative)),
        steps=steps,
        sampler=_text(graph.value(sampler, ("sampler_name",))),
        guidance=guidance,
        seed=seed,
        width_px=size[0],
        height_px=size[1],
        model=_model(models),
        loras=_loras(models),
        clip_skip=_clip_skip(graph, guided),
        unread=tuple(remarks),
    )


def _samplers(graph: Graph) -> list[Node]:
    """Those that made the picture, the last one first: back from where it was saved, or all."""
    linked = {
        link[0]
        for node in graph.nodes.values()
        for name in node.links()
        if (link := node.link(name)) is not None
    }
    ends = [node for key, node in graph.nodes.items() if key not in linked]
    # a picture that is saved, before previews and whatever else nothing follows
    for end in sorted(ends, key=lambda node: "save" not in node.kind.lower())[:MOST_ENDS]:
        found = [one for one in (end, *graph.behind(end, SAMPLES)) if _is_sampler(one)]
        if found:
            return found
    return [node for node in graph.nodes.values() if _is_sampler(node)][:1]


def _is_sampler(node: Node) -> bool:
    names = node.inputs.keys()
    return {"steps", "cfg"} <= names or {"sampler", "sigmas"} <= names


def _prompts(node: Node) -> bool:
    return "positive" in node.inputs or "conditioning" in node.inputs


def _prompt_link(node: Node | None, side: str) -> tuple[str, int] | None:
    if node is None:
        return None
    return node.link(side) or (node.link("conditioning") if side == "positive" else None)


def _size(node: Node) -> tuple[int, int] | None:
    """Of an empty latent, or another node that says one."""
    width, height = _whole(node.inputs.get("width")), _whole(node.inputs.get("height"))
    return (width, height) if width is not None and height is not None else None


def _model(nodes: list[Node]) -> str:
    for node in nodes:
        for name in ("ckpt_name", "unet_name", "model_name"):
            if found := _stem(node.inputs.get(name)):
                return found
    return ""


def _loras(nodes: list[Node]) -> tuple[tuple[str, float], ...]:
    found: dict[str, float] = {}
    for node in nodes:
        named = [(node.inputs.get("lora_name"), node.inputs.get("strength_model"))]
        for value in node.inputs.values():
            match value:
                case {"on": True, "lora": name, "strength": strength}:
                    named.append((name, strength))
        for name, strength in named:
            if stem := _stem(name):
                number = _number(strength)
                found[stem] = 1.0 if number is None else number
    return tuple(found.items())


def _stem(path: Any) -> str:
    return _text(path).replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".safetensors")


def _clip_skip(graph: Graph, guided: Node | None) -> int | None:
    """Layers are counted from the last, which is -1."""
    if guided is None:
        return None
    names = ("positive", "conditioning", "conditioning_1", "clip")
    for node in graph.behind(guided, names):
        layer = node.inputs.get("stop_at_clip_layer")
        if isinstance(layer, int) and layer < 0:
            return -layer
    return None


def _whole(value: Any) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 <= value < 10**30 else None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e6 else None


def _text(value: Any) -> str:
    return encodable(value)[:1000] if isinstance(value, str) else ""
