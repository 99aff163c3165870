"""Which family of transformers a model is of, by the shapes and counts of its parts."""

from __future__ import annotations

from pathlib import Path

from studio.families import FAMILIES, ChatEncoder, Family, Transformer
from studio.weights import ModelError, read_json

VAE_SHARE = 4  # channels of a packed latent for each of the VAE's


def family_of_folder(path: Path, pipeline: str) -> Family:
    """The family of a diffusers folder. Raises ModelError if its parts are not of one family, and
    KeyError or TypeError for configurations that make no sense."""
    network = read_json(path / "transformer" / "config.json")
    family = family_of_blocks(
        path.name, pipeline, network["num_layers"], network["num_single_layers"]
    )
    text = read_json(path / "text_encoder" / "config.json")
    vae = read_json(path / "vae" / "config.json")
    require_text_encoder(family, "its text encoder", text, network["joint_attention_dim"])
    require_vae(family, "its VAE", vae["latent_channels"], network["in_channels"])
    return family


def family_of_blocks(name: str, pipeline: str, double: int, single: int) -> Family:
    """The family of a network of so many blocks. Raises ModelError if there is none."""
    blocks = Transformer(double, single)
    for family in FAMILIES.values():
        if (family.pipeline, family.transformer) == (pipeline, blocks):
            return family
    known = " or ".join(
        f"{family.transformer.double} and {family.transformer.single} ({family.words})"
        for family in FAMILIES.values()
        if family.transformer and family.pipeline == pipeline
    )
    raise ModelError(
        f"{name} has {double} and {single} blocks, and only {known} can be tuned here."
    )


def require_text_encoder(family: Family, name: str, config: dict, expected: int) -> None:
    """Raise ModelError unless a language model has the states that a network reads.

    config: of transformers. expected: numbers for each token.
    """
    [facts] = family.text_encoders
    assert isinstance(facts, ChatEncoder)
    if config.get("model_type") != facts.model_type:
        raise ModelError(
            f"{family.words} reads prompts with {facts.words}, and {name} is of another kind "
            f"({str(config.get('model_type'))[:40]})."
        )
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    if width * len(facts.layers) != expected or layers <= max(facts.layers):
        raise ModelError(
            f"{family.words} needs {facts.words} of another size than {name}: its states have "
            f"{width} numbers, and {expected // len(facts.layers)} are read."
        )


def require_vae(family: Family, name: str, channels: int, expected: int) -> None:
    """Raise ModelError unless a VAE has the channels of a network's latents."""
    if channels * VAE_SHARE != expected:
        raise ModelError(
            f"{family.words} needs a VAE of {expected // VAE_SHARE} channels, and {name} has "
            f"{channels}."
        )
