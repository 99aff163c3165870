"""End-to-end test of a family at its true size: a model in, a round, a LoRA out, into diffusers.

    python launch.py bench full-size --family sd1 --json FILE

The model has the true architecture and widths with random weights: the test shows that everything
fits together, and how much time and memory it takes. The model is written as a diffusers folder and
as a single file in the original layout, in a temporary folder (SD 1: 9 GB in float32). Then

- both are loaded, and must draw the same from the same seed, to the bit;
- a picture drawn without noise in its steps must equal that of diffusers' own pipeline;
- a round of a few updates trains on pairs that the model drew;
- LoRA files are exported; diffusers' own pipeline must load each, and draw the same as the adapter
  (differences in levels of 255, averaged over the picture).

The memory that autograd keeps for one latent of 512 px is counted, with and without gradient
checkpointing: the presets of `studio.engine.memory` come from these numbers. Pictures are small
(`--px`) and chains short, so that a processor needs only some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import PIL.Image
import PIL.ImageChops
import PIL.ImageStat
import torch
from diffusers import DiffusionPipeline

from studio import models
from studio.bench import timing
from studio.bench.families import (
    FAMILIES,
    PARAMETERIZATIONS,
    drawing_scheduler,
    make_pipeline,
    write_checkpoint,
)
from studio.engine import sampling
from studio.engine.training import Training
from studio.engine.trajectory import PairBatch, Trajectory
from studio.lora.export import export_lora
from studio.lora.metadata import ExportInfo
from studio.settings import OBJECTIVES, SamplingSettings

PROMPT, SEED = "a red apple on a wooden table", 3
PAIRS = 2
RANK, ALPHA = 4, 2.0  # unequal, to reveal a reader that ignores alpha
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Levels of 255: rounding, much coarser in bfloat16, carried through the steps of a chain.
SAME_LEVELS = {"float32": 1.0, "bfloat16": 8.0}


def write_model(folder: Path, family: str, dtype: torch.dtype, narrow: bool) -> tuple[Path, Path]:
    """Write a model with random weights as a folder and as a file."""
    pipeline = make_pipeline(family, narrow, dtype)
    pipeline.save_pretrained(folder / family)
    file = write_checkpoint(folder / f"{family}.safetensors", pipeline, family)
    if word := PARAMETERIZATIONS.get(family):
        file.with_suffix(".yaml").write_text(f'model:\n  parameterization: "{word}"\n')
    return folder / family, file


def in_diffusers(
    folder: Path, start: torch.Tensor, settings: SamplingSettings, lora: Path | None
) -> PIL.Image.Image:
    """Draw with diffusers' own pipeline from the same starting noise."""
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=start.dtype, local_files_only=True)
    pipeline.scheduler = drawing_scheduler(pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(str(lora.parent), weight_name=lora.name)
    [picture] = pipeline(
        PROMPT,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        latents=start,
        width=settings.width_px,
        height=settings.height_px,
        eta=0.0,
    ).images
    return picture


def levels(one: PIL.Image.Image, other: PIL.Image.Image) -> float:
    """Mean difference of two pictures, of 255."""
    difference = PIL.ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
    return sum(PIL.ImageStat.Stat(difference).mean) / 3


def saved_mb(denoiser: models.Denoiser, px: int, checkpointing: bool) -> float:
    """Memory that autograd keeps for a latent of `px` pixels through the network, in half
    precision: every storage once, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in denoiser.network.parameters()}
    saved: dict[int, torch.Tensor] = {}  # referenced, so that no address is reused

    def save(tensor: torch.Tensor) -> torch.Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            saved[address] = tensor
        return tensor

    settings = SamplingSettings(width_px=px, height_px=px)
    latents = torch.zeros(1, *denoiser.latent_shape(settings))
    denoiser.set_gradient_checkpointing(checkpointing)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        denoiser.predict(latents, torch.tensor([500]), denoiser.text.embed([PROMPT]))
    denoiser.set_gradient_checkpointing(False)
    total = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    return total * 2 / denoiser.dtype.itemsize / 1e6


def measure(family: str, dtype: str, narrow: bool, px: int, steps: int, updates: int) -> dict:
    """All figures; raises if any step fails."""
    figures: dict = {"family": family, "dtype": dtype, "px": px, "steps": steps, "seconds": {}}
    settings = SamplingSettings(steps=steps, width_px=px, height_px=px, guidance=3.0)
    still = replace(settings, eta=0.0)

    @contextlib.contextmanager
    def timed(what: str) -> Iterator[None]:
        started_s = time.perf_counter()
        yield
        figures["seconds"][what] = round(time.perf_counter() - started_s, 1)
        print(f"{what}: {figures['seconds'][what]} s", file=sys.stderr, flush=True)

    def load(path: Path) -> models.Denoiser:
        gc.collect()
        return models.load(str(path), "cpu", DTYPES[dtype])

    def draw(denoiser: models.Denoiser) -> tuple[Trajectory, PIL.Image.Image]:
        [chain] = sampling.sample(denoiser, [PROMPT], [SEED], still)
        [picture] = sampling.images(denoiser, [chain])
        return chain, picture

    with tempfile.TemporaryDirectory(prefix="full-size-") as name:
        root = Path(name)
        with timed("write the model as a folder and as a file"):
            folder, file = write_model(root, family, DTYPES[dtype], narrow)
        with timed("load the folder"):
            denoiser = load(folder)
        modules = {"unet": denoiser.network, "vae": denoiser.vae}
        modules |= {f"text_{n}": encoder for n, encoder in enumerate(denoiser.text_encoders)}
        figures["parameters_millions"] = {
            part: round(sum(p.numel() for p in module.parameters()) / 1e6, 1)
            for part, module in modules.items()
        }
        del modules
        with timed("draw"):
            chain, picture = draw(denoiser)
        del denoiser
        with timed("load the file"):
            denoiser = load(file)
        again, _ = draw(denoiser)
        figures["folder_and_file_draw_the_same"] = torch.equal(chain.latents, again.latents)

        with timed("draw pairs"):
            seeds = list(range(PAIRS))
            pairs = sampling.sample_pairs(denoiser, [PROMPT] * PAIRS, seeds, settings)
        training = replace(
            OBJECTIVES["diffusion_dpo"],
            rank=RANK,
            alpha=ALPHA,
            learning_rate=1e-2,
            updates_base=updates,
            updates_per_pick=0,
        )
        with timed("a round"):
            metrics = list(Training(denoiser, PairBatch.of(pairs), training))
        figures["updates"] = [each.values() for each in metrics]
        tuned = draw(denoiser)[1]
        figures["levels_base_to_tuned"] = levels(picture, tuned)
        with timed("count what is kept for the gradient"):
            figures["kept_mb_512_px"] = {
                name: round(saved_mb(denoiser, 64 if narrow else 512, checkpointing))
                for name, checkpointing in (("plain", False), ("checkpointing", True))
            }
        info = ExportInfo(
            family,
            base_model=f"a model of {family}",
            picks=PAIRS,
            trained_at_s=0.0,
        )
        with timed("export"):
            exported = export_lora(
                root / "lora",
                "tuned",
                denoiser.adapters.state(),
                RANK,
                ALPHA,
                info,
                layers=denoiser.adapters.layer_shapes,
            )
        del denoiser
        figures["diffusers"] = rows = {}
        start = chain.latents[:1].to(DTYPES[dtype])
        loras = [path for path in exported.files if path.suffix == ".safetensors"]
        for what, lora, ours in [("base", None, picture), *((p.stem, p, tuned) for p in loras)]:
            gc.collect()
            with timed(f"draw in diffusers, {what}"):
                theirs = in_diffusers(folder, start, still, lora)
            rows[what] = {
                "levels_to_ours": levels(ours, theirs),
                "levels_to_the_other": levels(picture if lora else tuned, theirs),
            }
    figures["peak_memory_mb"] = timing.peak_memory_mb(torch.device("cpu"))
    figures["device"] = timing.device_name(torch.device("cpu"))
    return figures


def complaints(figures: dict) -> list[str]:
    """The failures of the test."""
    failures = []
    if not figures["folder_and_file_draw_the_same"]:
        failures.append("the folder and the file draw different pictures")
    most = SAME_LEVELS[figures["dtype"]]
    for what, row in figures["diffusers"].items():
        if row["levels_to_ours"] > most or row["levels_to_ours"] >= row["levels_to_the_other"]:
            failures.append(f"diffusers draws another picture: {what}")
    return failures


def report(figures: dict) -> str:
    f = figures
    parts = ", ".join(f"{part} {count:g}" for part, count in f["parameters_millions"].items())
    same = "to the bit" if f["folder_and_file_draw_the_same"] else "NOT THE SAME"
    kept = f["kept_mb_512_px"]
    lines = [
        f"{f['family']} in {f['dtype']}, {f['px']} px, {f['steps']} steps; {f['device']}",
        f"parameters, in millions           {parts}",
        f"folder and file draw the same     {same}",
        f"updates of a round                {len(f['updates'])}, base and tuned "
        f"{f['levels_base_to_tuned']:.1f} of 255 levels apart",
        f"kept for the gradient of a latent {kept['plain']} MB, {kept['checkpointing']} MB with "
        "gradient checkpointing",
    ]
    lines += [
        f"in diffusers, {what:19} {row['levels_to_ours']:.2f} levels from ours, "
        f"{row['levels_to_the_other']:.1f} from the other"
        for what, row in f["diffusers"].items()
    ]
    lines += [f"{what:48} {seconds:8.1f} s" for what, seconds in f["seconds"].items()]
    if f["peak_memory_mb"] is not None:
        lines.append(f"peak memory {f['peak_memory_mb']:.0f} MB")
    return "\n".join([*lines, *(f"WRONG: {what}" for what in complaints(f))])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="launch.py bench full-size",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--family", choices=(*FAMILIES, "sdxl_rf"), default="sd1")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights")
    parser.add_argument("--narrow", action="store_true", help="small widths, to test the command")
    parser.add_argument("--px", type=int, default=128, help="size of the pictures")
    parser.add_argument("--steps", type=int, default=2, help="of each drawing")
    parser.add_argument("--updates", type=int, default=3, help="of the round")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = vars(parser.parse_args(argv))
    path = arguments.pop("json")
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    figures = measure(**arguments)
    print(report(figures))
    timing.write(path, figures)
    return 1 if complaints(figures) else 0
