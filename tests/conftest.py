"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from studio.settings import SessionSettings
from studio.store import Pair, Session, Store
from tests.support.factories import make_pair

# Nothing is timed: a machine that is busy elsewhere is no fault.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="module", autouse=True)
def frozen_heap() -> None:
    """Take what is there, of imports and of Gradio's pages, out of all later garbage collections.

    They are millions of objects, and the tests of memory collect often, for seconds each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of a studio that does not exist yet."""
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    """An empty store."""
    store = Store.open(home)
    yield store
    store.close()


@pytest.fixture
def session(store: Store) -> Session:
    """A session with two prompts."""
    return store.create_session(
        "First", SessionSettings(prompts=("a red apple", "a lion"), round_every=4)
    )


@pytest.fixture
def add_pairs(store: Store, session: Session) -> Callable[..., list[Pair]]:
    """Call it with a number to have so many pairs waiting in `session`."""

    def add(number: int, **changes: object) -> list[Pair]:
        return [make_pair(store, session.id, **changes) for _ in range(number)]

    return add


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion folder with all the parts and no knowledge: quick, and always the same."""
    import torch
    from diffusers import (
        AutoencoderKL,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from studio.models.parts import sd_scheduler

    folder = tmp_path_factory.mktemp("tiny")
    letters = [*"abcdefghijklmnopqrstuvwxyz,.-'"]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *words]
    (folder / "vocab.json").write_text(json.dumps({w: n for n, w in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        sample_size=64,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=sd_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def klein_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX.2 klein base 4B with small widths and no knowledge, as a folder of diffusers."""
    from studio.bench.flux2 import make_pipeline

    folder = tmp_path_factory.mktemp("klein") / "klein base"
    make_pipeline("flux2_klein_4b").save_pretrained(folder)
    return folder
