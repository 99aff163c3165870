"""An export's picture as files that draw it in other tools: see `studio.pictures.workflows`."""

from __future__ import annotations

from pathlib import Path

from studio.models import Denoiser
from studio.pictures import workflows
from studio.pictures.infotext import Parameters
from studio.pictures.workflows import Drawing
from studio.prompting.emphasis import for_comfyui
from studio.store import Image, write_atomically


def drawing(denoiser: Denoiser, image: Image, prompt: str, lora: str) -> Drawing:
    """The settings of a picture. prompt: with nothing left open. lora: the exported file's name."""
    sampling, info, start = image.sampling, denoiser.info, denoiser.start
    loras = [(lora, image.strength)] + ([(start.name, start.strength)] if start else [])
    is_file = info.path.is_file()
    clip_layer = None
    if info.facts.reads_clip_skip and sampling.clip_skip > 1:
        unused = 1 if info.facts.text_encoders[0].most_layers else 0  # SD 2 never uses its last
        clip_layer = -sampling.clip_skip - unused
    config = denoiser.scheduler.config
    made = Parameters(
        prompt=prompt,
        negative_prompt=sampling.negative_prompt,
        steps=sampling.steps,
        guidance=sampling.guidance,
        seed=image.seed,
        width_px=sampling.width_px,
        height_px=sampling.height_px,
        eta=sampling.eta,
        model=info.path.stem if is_file else Path(info.name).name,
        loras=tuple(loras),
        clip_skip=sampling.clip_skip,
        more=image.companions,
    )
    return Drawing(
        made,
        for_comfyui(prompt),
        for_comfyui(sampling.negative_prompt),
        prediction_type=denoiser.prediction_type,
        zero_snr=bool(config.get("rescale_betas_zero_snr")),
        spacing=config.get("timestep_spacing", "leading"),
        shift=config.get("shift"),
        clip_layer=clip_layer,
        zero_negative=denoiser.text.zero_unconditional,
        is_file=is_file,
    )


def write(
    folder: Path, name: str, drawn: Drawing, recommended: float
) -> tuple[tuple[str, ...], str]:
    """Write the files of an export's picture; gives their names, and what differs in the tools.

    recommended: the strength that the artist recommends, beside that of the picture.
    """
    said = workflows.remarks(drawn)
    [(_, strength), *_] = drawn.made.loras
    if recommended != strength:
        said.append(f"The picture has strength {strength:g}; recommended is {recommended:g}.")
    note = " ".join(said)
    texts = workflows.files(drawn, name, note)
    for file, text in texts.items():
        write_atomically(folder / file, lambda path, text=text: path.write_text(text, "utf-8"))
    return tuple(texts), note
