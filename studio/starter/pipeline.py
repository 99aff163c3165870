"""The parts of a starter model that no recipe chooses: tokenizer, noise schedule, pipeline."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer


def train_tokenizer(
    captions: list[str], folder: Path, vocabulary: int, tokens: int
) -> CLIPTokenizer:
    """A CLIP tokenizer (byte-level BPE with </w>) whose merges are learned from the captions.

    vocabulary: the most entries; tokens: of the longest prompt.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    clip = CLIPTokenizer().backend_tokenizer  # which splits words as the one to be made will
    bpe.normalizer, bpe.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        end_of_word_suffix="</w>",
        min_frequency=1,
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    words = [*dict.fromkeys(words), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)},
        merges=merges,
        model_max_length=tokens,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def new_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        # More noise at the end than Stable Diffusion's 0.012: a ground is one colour over the whole
        # picture, and would still shine through, which no chain that begins with noise can know.
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
    )


def pipeline_of(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
