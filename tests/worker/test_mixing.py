"""Mixes of tastes and LoRA files: what is drawn is the base with the sum of all changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import PIL.Image
import PIL.ImageChops
import pytest
import sqlalchemy as sa
import torch
from safetensors.torch import load_file, save_file

from studio import models, weights
from studio.files import ADAPTER_FILE
from studio.lora import format as lora_format
from studio.lora.format import from_peft
from studio.lora.fuse import layers
from studio.settings import MixPart, SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Adapter, Job, Store, schema
from studio.ui.images import made_with
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.compare import comparison
from studio.ui.tabs.export.exports import export_cards
from studio.worker.loop import Worker
from studio.worker.mixing import Mix
from tests.support.factories import make_adapter, pick
from tests.support.loras import write_lora
from tests.support.workers import learned


@pytest.fixture
def lora(tiny_model: Path, tmp_path: Path) -> Path:
    return write_lora(tmp_path / "style.safetensors", tiny_model)


def learn(store: Store, model: Path, name: str, training: TrainingSettings) -> Adapter:
    sampling = SamplingSettings(steps=3, width_px=64, height_px=64, seed=3)
    settings = SessionSettings(
        str(model), ("a cat",), sampling=sampling, training=training, live=False, queue_target=1
    )
    adapter = learned(store, settings, name, training)
    store.set_last_session(adapter.session_id)
    return adapter


@pytest.fixture
def tastes(store, tiny_model) -> list[Adapter]:
    """Rounds of two sessions, of different ranks, on different layers."""
    blue = TrainingSettings(rank=2, alpha=1, layers="attention_and_shortcuts")
    warm = TrainingSettings(rank=3, alpha=6, layers="attention", seed=5)
    return [learn(store, tiny_model, *one) for one in (("Blue", blue), ("Warm", warm))]


def compare(store: Store, worker: Worker, adapter: Adapter, strength: float, *mix: MixPart) -> Job:
    payload = comparison.comparison_payload(
        "a cat", 1, 1, adapter.id, strength, [part.to_dict() for part in mix]
    )
    job = store.add_job(adapter.session_id, "compare", payload)
    worker.jobs.run_next()
    return store.job(job.id)


def pixels(store: Store, image_id: str) -> bytes:
    return PIL.Image.open(store.image_path(store.image(image_id))).convert("RGB").tobytes()


def merged(
    model: Path, store: Store, tastes: list[tuple[Adapter, float]], files: list[tuple[Path, float]]
) -> models.Denoiser:
    """The oracle: a model whose weights are base + sum of strength × delta, and no LoRA."""
    denoiser = models.load(str(model), "cpu")
    weights = dict(layers(denoiser.network))
    by_name = {f"lora_unet_{name.replace('.', '_')}": weight for name, weight in weights.items()}
    with torch.no_grad():
        for adapter, strength in tastes:
            state = load_file(store.adapter_path(adapter) / ADAPTER_FILE)
            parts = from_peft(state, adapter.settings.rank, adapter.settings.alpha)
            for name, part in parts.items():
                weights[name] += strength * part.change().reshape(weights[name].shape)
        for path, strength in files:
            for name, part in lora_format.read(path).parts.items():
                weight = by_name[name]
                weight += strength * part.change().reshape(weight.shape)
    return denoiser


def test_a_mix_draws_as_the_base_with_the_sum_of_all_changes(
    store, worker, tastes, lora, tiny_model
):
    blue, warm = tastes
    job = compare(
        store,
        worker,
        warm,
        1.5,
        MixPart(adapter_id=blue.id, strength=-1.0),
        MixPart(path=str(lora), strength=0.5),
    )
    assert job.state == "done", job.message
    assert job.result["mix"].startswith(
        "Warm round 1 at 1.5, Blue round 1 at -1, style at 0.5. style: "
    )
    [cell] = job.result["cells"]
    tuned = store.image(cell["tuned"])
    oracle = merged(tiny_model, store, [(warm, 1.5), (blue, -1.0)], [(lora, 0.5)])
    denoiser = worker.renderer.denoiser
    folders = [(store.adapter_path(warm), 1.5), (store.adapter_path(blue), -1.0)]
    x, t = torch.randn(2, *denoiser.latent_shape(tuned.sampling)), torch.tensor([500, 20])
    text = denoiser.text.embed(["a cat", "a dog"])
    with torch.no_grad():
        base = denoiser.predict(x, t, text)
        with denoiser.with_mix([(lora_format.read(lora), 0.5)], folders):
            mixed = denoiser.predict(x, t, text)
        torch.testing.assert_close(mixed, oracle.predict(x, t, text), rtol=1e-4, atol=1e-5)
        assert torch.equal(denoiser.predict(x, t, text), base)  # nothing of it is left
        assert (mixed - base).abs().max() > 0.01
    worker.renderer.denoiser = oracle
    drawn = worker.renderer.picture(tuned)
    kept = PIL.Image.open(store.image_path(tuned)).convert("RGB")
    difference = PIL.ImageChops.difference(drawn.convert("RGB"), kept)
    assert max(high for _, high in difference.getextrema()) <= 1


def test_a_mix_is_one_picture_of_its_parts_and_strengths(store, worker, tastes, lora):
    blue, warm = tastes
    half = MixPart(adapter_id=blue.id, strength=0.5)

    def tuned(*mix: MixPart) -> str:
        return compare(store, worker, warm, 1.0, *mix).result["cells"][0]["tuned"]

    first = tuned(half)
    assert tuned(half) == first  # drawn once
    assert tuned(replace(half, strength=0.6)) != first
    assert pixels(store, tuned(MixPart(adapter_id=blue.id, strength=0.0))) == pixels(store, tuned())
    made = made_with(store, store.image(first))
    assert made.loras == (("Warm round 1", 1.0), ("Blue round 1", 0.5))
    assert "Mix" not in made.more
    value = comparison.viewer_value(StoreSnapshot(store), store.jobs(warm.session_id, "compare"))
    assert value["tuned"] == "Round 1"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("other model", "“Blue round 1” does not fit this mix: it was made with another base"),
        ("other shapes", "wide.safetensors was made for another kind of model"),
        ("no file", "nothing.safetensors"),
        ("no taste", "does not exist"),
        ("no session", "round 1 of a session that was deleted: leave it out"),
        ("cut while it is read", "style.safetensors changed while it was read"),
    ],
)
def test_what_does_not_fit_is_a_sentence(
    store, worker, tastes, lora, tmp_path, monkeypatch, spoil, sentence
):
    blue, warm = tastes
    part = MixPart(adapter_id=blue.id)
    if spoil == "other model":
        with store.writing() as connection:
            changed = sa.text("update adapters set base_hash = 'x' where id = :id")
            connection.execute(changed, {"id": blue.id})
    elif spoil == "other shapes":
        path = tmp_path / "wide.safetensors"
        name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
        tensors = {f"{name}.lora_down.weight": torch.ones(1, 99)}
        save_file(tensors | {f"{name}.lora_up.weight": torch.ones(99, 1)}, path)
        part = MixPart(path=str(path))
    elif spoil == "no session":
        store.delete_session(blue.session_id)
    elif spoil == "cut while it is read":
        read_header = weights.read_header

        def cut(path: Path) -> weights.Header:
            header = read_header(path)
            if path == lora:
                path.write_bytes(path.read_bytes()[:-8])
            return header

        monkeypatch.setattr(weights, "read_header", cut)
        part = MixPart(path=str(lora))
    elif spoil == "no file":
        part = MixPart(path=str(tmp_path / "nothing.safetensors"))
    else:
        part = MixPart(adapter_id="gone")
    job = compare(store, worker, warm, 1.0, part)
    assert job.state == "failed"
    assert sentence in job.message


def save(store: Store, worker: Worker, adapter: Adapter, rank: int, *mix: MixPart) -> Job:
    payload = {
        "adapter_id": adapter.id,
        "mix": [part.to_dict() for part in mix],
        "name": "Both",
        "formats": ["kohya", "diffusers"],
        "rank": rank,
    }
    job = store.add_job(adapter.session_id, "export", payload)
    worker.jobs.run_next()
    return store.job(job.id)


def test_a_mix_is_saved_as_one_lora_that_is_its_exact_sum(
    store, worker, tastes, lora, tiny_model, tmp_path
):
    blue, warm = tastes
    state = load_file(lora)
    draw = torch.Generator().manual_seed(3)
    name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    state[f"{name}.lora_down.weight"] = torch.randn(1, 16, generator=draw)
    state[f"{name}.lora_up.weight"] = torch.randn(16, 1, generator=draw)
    file = tmp_path / "with words.safetensors"
    save_file(state, file)
    parts = (
        MixPart(adapter_id=warm.id, strength=1.5),
        MixPart(adapter_id=blue.id, strength=-1.0),
        MixPart(path=str(file), strength=0.5),
    )
    job = save(store, worker, warm, 0, *parts)
    assert job.state == "done", job.message
    [export] = store.exports(warm.session_id)
    words = "Warm round 1 at 1.5, Blue round 1 at -1, with words at 0.5"
    assert export.checks["Mix"] == f"{words}; exact, of rank 7"  # 3 + 2 + 2
    for ending in ("", "-diffusers"):
        found = export.checks[f"Both{ending}.safetensors: picture"]
        assert found.startswith("loaded again, it draws what the mix draws (0.0 of 255")
    assert f"A mix of {words}" in export_cards(StoreSnapshot(store), True)
    folder = store.export_path(warm.session_id, export.id)
    assert f"A mix of {words}." in (folder / "Both.json").read_text("utf-8")
    denoiser = models.load(str(tiny_model), "cpu")
    for ending in ("", "-diffusers"):
        one = lora_format.read(folder / f"Both{ending}.safetensors")
        expected = merged(tiny_model, store, [(warm, 1.5), (blue, -1.0)], [(lora, 0.5)])
        with denoiser.with_lora(one):
            after = dict(layers(denoiser.network))
            for layer, weight in layers(expected.network):
                torch.testing.assert_close(after[layer], weight, rtol=1e-4, atol=1e-5)
            changed = [
                layer
                for (layer, weight), old in zip(
                    layers(denoiser.text_encoders[0]), saved_copies(tiny_model), strict=True
                )
                if not torch.equal(weight, old)
            ]
        assert [layer.rpartition("layers.0.")[2] for layer in changed] == ["self_attn.q_proj"]


def saved_copies(model: Path) -> list[torch.Tensor]:
    """The weights of the text encoder as they are on the disk."""
    return [weight for _, weight in layers(models.load(str(model), "cpu").text_encoders[0])]


def test_a_mix_of_another_rank_says_what_it_keeps(store, worker, tastes):
    blue, warm = tastes
    both = MixPart(adapter_id=warm.id), MixPart(adapter_id=blue.id)
    job = save(store, worker, warm, 2, *both)
    assert job.state == "done", job.message
    [export] = store.exports(warm.session_id)
    assert "; of rank 2 instead of 5: the layer that loses most keeps " in export.checks["Mix"]
    path = store.export_path(warm.session_id, export.id) / "Both.safetensors"
    assert lora_format.read(path).rank == 2
    nothing = replace(both[0], strength=0.0), replace(both[1], strength=0.0)
    job = save(store, worker, warm, 0, *nothing)
    assert (job.state, job.message) == (
        "failed",
        "Every strength of this mix is 0: there is nothing to save.",
    )
    assert "A rank lies between 1 and 1024" in save(store, worker, warm, 5000, *both).message


@pytest.mark.parametrize("change", ["other weights", "nothing"])
def test_a_file_that_is_written_anew_changes_nothing_that_was_read(lora, change):
    """In its place, as `cp` does it; a mapped file would change, or end the process."""
    found = lora_format.read(lora)
    before = {name: part.change().clone() for name, part in found.parts.items()}
    with lora.open("r+b") as file:
        size_bytes = lora.stat().st_size
        if change == "nothing":
            file.truncate(0)
        else:
            file.seek(size_bytes // 2)
            file.write(bytes(size_bytes - size_bytes // 2))
    assert all(torch.equal(found.parts[name].change(), was) for name, was in before.items())


def test_picks_that_several_rounds_learned_from_count_once(worker, tastes):
    blue, warm = (replace(one, picks=picks) for one, picks in zip(tastes, (7, 4), strict=True))
    later = replace(blue, id="later", picks=9)
    parts = (("Blue", blue, 1.0), ("Blue", blue, 0.5), ("Later", later, 1.0), ("Warm", warm, 1.0))
    assert Mix(worker.renderer, parts, (), "").picks == 9 + 4


def test_a_round_is_mixed_in_once_it_is_judged(store, session, add_pairs):
    pick(store, add_pairs(4))
    round_ = store.request_round(session.id)
    store.claim_round()
    adapter = make_adapter(session.id, round_)
    store.keep_adapter(round_.id, adapter)
    assert store.tastes(adapter.base_hash) == []
    store.finish_round(round_.id, adapter)
    assert [one.id for _, one in store.tastes(adapter.base_hash)] == [adapter.id]


# --- in the grid and the exam --------------------------------------------------------------------


def asked(*parts: MixPart) -> dict[str, object]:
    return {"name": "a mix", "parts": [part.to_dict() for part in parts], "hash": ""}


def test_a_grid_draws_a_mix_at_every_strength(store, worker, tiny_model, tastes, lora):
    """Each picture is that of the weights with all changes added, and Compare's at these strengths.

    No part is stronger than 1: beyond it this network makes of float32's rounding of its own
    weights 6e-4 of a prediction, which is seen after some steps, whoever adds the changes.
    """
    blue, warm = tastes
    mix = asked(
        MixPart(blue.id, None, 0.5),
        MixPart(warm.id, None, -0.5),
        MixPart(path=str(lora), strength=0.5),
    )
    axes = {"prompts": ["a cat"], "seeds": [1], "strengths": [0.0, -0.5, 2.0]}
    payload = {**axes, "adapter_ids": [blue.id, "mix:1"], "mixes": {"mix:1": mix}}
    job = store.add_job(blue.session_id, "grid", payload)
    worker.jobs.run_next()
    job = store.job(job.id)
    assert job.state == "done", job.message
    base, *mixed = job.result["image_ids"][3:]
    assert base == job.result["image_ids"][0]
    for image_id, strength in zip(mixed, (-0.5, 2.0), strict=True):
        half = 0.5 * strength
        parts = MixPart(warm.id, None, -half), MixPart(path=str(lora), strength=half)
        [cell] = compare(store, worker, blue, half, *parts).result["cells"]
        assert cell["tuned"] == image_id
        denoiser = worker.renderer.denoiser
        worker.renderer.denoiser = merged(
            tiny_model, store, [(blue, half), (warm, -half)], [(lora, half)]
        )
        difference = PIL.ImageChops.difference(
            worker.renderer.picture(store.image(image_id)).convert("RGB"),
            PIL.Image.open(store.image_path(store.image(image_id))).convert("RGB"),
        )
        assert max(high for _, high in difference.getextrema()) <= 1
        worker.renderer.denoiser = denoiser


def test_an_exam_of_a_mix_is_of_the_same_mix_to_its_end(store, worker, tastes, lora):
    blue, warm = tastes
    mix = asked(MixPart(blue.id, None, 0.5), MixPart(warm.id), MixPart(path=str(lora)))
    questions = [("a snail", 1), ("an owl", 2)]
    exam = store.add_exam(blue.session_id, blue.id, 0.8, questions, mix)
    worker.jobs.run_next()
    exam = store.exam(exam.id)
    assert all(pair.is_drawn for pair in exam.pairs)
    shown = store.image(exam.pairs[0].tuned_image_id)
    assert (shown.purpose, shown.adapter_id) == ("exam", None)
    assert "style:0.8" in shown.companions["Mix"]
    assert "Blue round 1:0.4" in shown.companions["Mix"]
    assert exam.mix["hash"]
    assert pixels(store, shown.id) != pixels(store, exam.pairs[0].base_image_id)
    with store.writing() as connection:
        undrawn = {"base_image_id": None, "tuned_image_id": None}
        last = sa.update(schema.exam_pairs).where(schema.exam_pairs.c.id == exam.pairs[1].id)
        connection.execute(last.values(undrawn))
    tensors = {name: 2 * tensor for name, tensor in load_file(lora).items()}
    save_file(tensors, lora)
    store.draw_exam(exam.id)
    worker.jobs.run_next()
    [job, _] = store.jobs(blue.session_id, "exam")
    assert job.state == "failed"
    assert "has changed since the exam began" in job.message
    assert store.exam(exam.id).pairs[1].tuned_image_id is None
