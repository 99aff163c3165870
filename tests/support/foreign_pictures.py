"""Pictures as other programs write them, with their settings."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageDraw, PngImagePlugin

PROGRAMS = ("a1111", "forge", "comfyui", "comfyui_webp", "swarmui", "invokeai", "avif")
ENDINGS = {"forge": "jpg", "comfyui_webp": "webp", "avif": "avif"}


def drawing(seed: int, size_px: tuple[int, int] = (96, 96)) -> Image.Image:
    """Some picture, of which another seed makes quite another one."""
    dice = random.Random(seed)
    picture = Image.new("RGB", (256, 256), tuple(dice.randrange(256) for _ in range(3)))
    pen = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y = dice.randrange(200), dice.randrange(200)
        box = (x, y, x + dice.randrange(30, 120), y + dice.randrange(30, 120))
        pen.ellipse(box, fill=tuple(dice.randrange(256) for _ in range(3)))
    return picture.resize(size_px, Image.Resampling.LANCZOS)


def save(
    folder: Path,
    name: str,
    picture: Image.Image,
    program: str = "a1111",
    prompt: str = "a cat",
    model: str = "dreamer",
) -> Path:
    """Save a picture as a program does; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = picture.size
    path = folder / f"{name}.{ENDINGS.get(program, 'png')}"
    infotext = (
        f"{prompt}\nNegative prompt: dogs\nSteps: 7, Sampler: DDIM, CFG scale: 3, Seed: 5, "
        f"Size: {width}x{height}, Model hash: ab12cd34ef, Model: {model}"
    )
    graph = json.dumps(_graph(prompt, model, width, height))
    values = {"model": model, "seed": 5, "steps": 7, "cfgscale": 3.0, "width": width}
    values |= {"height": height, "prompt": prompt, "negativeprompt": "dogs"}
    invoke = {"positive_prompt": prompt, "negative_prompt": "dogs", "seed": 5, "steps": 7}
    invoke |= {"width": width, "height": height, "model": {"name": model}}
    texts = {
        "a1111": {"parameters": infotext},
        "comfyui": {"prompt": graph},
        "swarmui": {"parameters": json.dumps({"sui_image_params": values})},
        "invokeai": {"invokeai_metadata": json.dumps(invoke)},
    }
    if program in texts:
        notes = PngImagePlugin.PngInfo()
        for key, text in texts[program].items():
            notes.add_itxt(key, text)
        picture.save(path, pnginfo=notes)
        return path
    exif = Image.Exif()
    if program == "comfyui_webp":
        exif[ExifTags.Base.Make] = f"prompt:{graph}"
    else:
        comment = b"UNICODE\0" + infotext.encode("utf-16-be")
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    picture.save(path, exif=exif.tobytes(), quality=90)
    return path


def _graph(prompt: str, model: str, width: int, height: int) -> dict[str, Any]:
    sampler = {"seed": 5, "steps": 7, "cfg": 3.0, "sampler_name": "ddim", "model": ["4", 0]}
    sampler |= {"positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    return {
        "3": {"class_type": "KSampler", "inputs": sampler},
        "4": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": f"{model}.safetensors"},
        },
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": width, "height": height}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": prompt}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "dogs"}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
    }
