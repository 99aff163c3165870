"""Rounds on a real, small Stable Diffusion folder."""

import copy
import io
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch

from studio import models
from studio.bench.systems import SYSTEMS
from studio.engine import memory, sampling
from studio.engine.estimators import (
    DenoisingSteps,
    Estimator,
    NoisedPictures,
    StepsGivenEnd,
    step_log_prob,
    velocity_errors,
)
from studio.engine.evaluation import velocity_changes
from studio.engine.memory import PRESETS
from studio.engine.objective import Objective, reads_only_final
from studio.engine.orders import counted
from studio.engine.training import MOST_SCALED, Training, TrainingFailed, groups_of_update
from studio.engine.trajectory import PairBatch, Trajectory
from studio.maths.objectives import ALIKE
from studio.maths.scalar_adam import ScalarAdam
from studio.models import Denoiser
from studio.prompting.mismatched import mismatched
from studio.settings import OBJECTIVES, SamplingSettings, TrainingSettings

SAMPLING = SamplingSettings(steps=4, width_px=64, height_px=64, guidance=3.0)
FEW = {"updates_base": 4, "updates_per_pick": 0, "batch_pairs": 4, "micro_batch_pairs": 4}
SHORT = replace(OBJECTIVES["d3po_balanced"], **FEW)
SHORT_DPO = replace(OBJECTIVES["diffusion_dpo"], **FEW)
SHORT_GIVEN_END = replace(SHORT_DPO, loss="d3po_given_end", timestep_fraction=0.5)
both_kinds = pytest.mark.parametrize("short", [SHORT, SHORT_DPO], ids=["d3po", "diffusion_dpo"])
all_kinds = pytest.mark.parametrize(
    "short", [SHORT, SHORT_DPO, SHORT_GIVEN_END], ids=lambda short: short.loss
)
PROMPTS = ["a cat", "a dog", "a fish", "a bird", "a fox", "a cow"]


@pytest.fixture
def denoiser(tiny_model: Path) -> Denoiser:
    return models.load(str(tiny_model), "cpu")


@pytest.fixture
def pairs(denoiser: Denoiser) -> PairBatch:
    return PairBatch.of(sampling.sample_pairs(denoiser, PROMPTS, list(range(6)), SAMPLING))


@pytest.fixture(params=["alike", "sure", "alone", "wrong_prompts", "list"])
def picks(request: pytest.FixtureRequest, denoiser: Denoiser, pairs: PairBatch) -> PairBatch:
    """The pairs, and what the picks say beyond "better"."""
    chains = sampling.sample_pairs(denoiser, PROMPTS, list(range(6)), SAMPLING)
    return {
        "alike": pairs,
        "sure": PairBatch.of(chains, certainty=[1, 0.75, 0.75, 1, 0.75, 0.5]),
        "alone": PairBatch.of(
            [
                *chains[:3],
                (chains[0][0], None),  # a favourite that is in a pair, too
                (chains[3][0], None),
                *((None, side) for side in (*chains[4], *chains[5])),
            ]
        ),
        "wrong_prompts": PairBatch.of(chains, wrong_prompts=mismatched, prompt_weight=0.5),
        "list": counted(
            PairBatch.of([*ranked(denoiser), *chains[:1]], wrong_prompts=mismatched), "list"
        ),
    }[request.param]


def forget_reference(estimator: Estimator) -> None:
    estimator.reference = torch.full_like(estimator.reference, math.nan)


def test_the_adapter_changes_the_layers_of_its_settings(denoiser: Denoiser) -> None:
    ends = {}
    for objective, settings in OBJECTIVES.items():
        denoiser.adapters.new(settings)
        ends[objective] = {
            name.split(".lora_")[0].split(".")[-1] for name in denoiser.adapters.state()
        }
    attention = {"to_q", "to_k", "to_v", "0"}
    assert ends["d3po"] == attention  # as it was published
    assert ends["diffusion_dpo"] == attention | {"conv_shortcut"}


def test_shortcuts_learn_at_a_rate_of_their_own(denoiser: Denoiser, pairs: PairBatch) -> None:
    after = []
    for share in (1.0, 0.25):
        one = replace(SHORT_DPO, updates_base=1, target_shift=None, shortcut_rate=share)
        list(Training(denoiser, pairs, one))
        after.append(denoiser.adapters.state())
    whole, quarter = after
    for name in whole:
        if "lora_B" in name:  # nothing at first, so that this is the step
            share = 0.25 if "conv_shortcut" in name else 1.0
            torch.testing.assert_close(quarter[name], share * whole[name])
            assert whole[name].abs().max() > 0


@pytest.mark.parametrize("reduction", ["sum", "mean", "noise"])
@pytest.mark.parametrize("guided", [True, False])
def test_an_untrained_adapter_has_a_log_ratio_of_exactly_zero(
    denoiser: Denoiser, pairs: PairBatch, reduction: str, guided: bool
) -> None:
    settings = replace(SHORT, reduction=reduction, guided=guided)
    denoiser.adapters.new(settings)
    steps = torch.tensor([0, 1, 2, 3])
    latents = torch.stack([pairs.latents[0, i : i + 2] for i in range(4)])
    with torch.no_grad():
        policy = step_log_prob(denoiser, latents, steps, ["a cat"] * 4, pairs, settings)
        with denoiser.adapters.off():
            reference = step_log_prob(denoiser, latents, steps, ["a cat"] * 4, pairs, settings)
    assert torch.equal(policy, reference)


@all_kinds
def test_the_reference_is_the_base_however_far_the_adapter_is_trained(
    denoiser: Denoiser, pairs: PairBatch, short: TrainingSettings
) -> None:
    training = Training(denoiser, pairs, replace(short, learning_rate=0.05))
    estimator = training.estimator
    draws = estimator.draws_of_update([0] * len(pairs), 0)

    def gains_and_reference() -> tuple[torch.Tensor, torch.Tensor]:
        forget_reference(estimator)
        with torch.no_grad():
            gains = torch.stack(estimator.gains(estimator.groups, draws))
        return gains, estimator.reference

    gains, before = gains_and_reference()
    assert not gains.any()
    assert before.isfinite().any()
    list(training)
    gains, after = gains_and_reference()
    assert torch.equal(before.nan_to_num(), after.nan_to_num())
    assert (gains.abs() > 1e-5).all()


@both_kinds
def test_what_the_reference_makes_of_a_look_is_computed_once(
    denoiser: Denoiser, pairs: PairBatch, short: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all is learned that is learned when it is computed anew for every update."""
    settings = replace(short, updates_base=6, noise_draws_per_pair=4)
    training = Training(denoiser, pairs, settings)
    for _ in training:
        forget_reference(training.estimator)
    expected = denoiser.adapters.state()

    rows: list[int] = []
    predict = denoiser.predict

    def counted(latents: torch.Tensor, *rest: object) -> torch.Tensor:
        if not torch.is_grad_enabled():
            rows.append(len(latents))
        return predict(latents, *rest)

    training = Training(denoiser, pairs, replace(settings, target_shift=None))
    monkeypatch.setattr(denoiser, "predict", counted)
    list(training)
    known = training.estimator.reference
    assert sum(rows) == int(known.isfinite().sum())
    draws = SAMPLING.steps if settings.loss == "d3po" else settings.noise_draws_per_pair
    assert sum(rows) <= len(pairs.latents) * draws
    monkeypatch.undo()
    list(Training(denoiser, pairs, settings))
    for name, value in denoiser.adapters.state().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


def test_a_pair_is_looked_at_in_so_many_ways_and_again_from_the_first(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    settings = replace(SHORT_DPO, steps_per_pair=2, noise_draws_per_pair=16)
    estimator = NoisedPictures(denoiser, pairs, settings)
    seen: dict[int, list[int]] = {pair: [] for pair in range(len(pairs))}
    for update in range(15):  # 60 turns of 6 pairs
        groups, epochs = groups_of_update(estimator.groups, settings.batch_pairs, update, seed=0)
        draws = estimator.draws_of_update(epochs, update).tolist()
        for [pair], row in zip(groups, draws, strict=True):
            seen[pair] += row
    assert list(seen.values()) == [[*range(16), *range(4)]] * len(pairs)

    draws = torch.arange(16).expand(len(pairs), -1)
    timesteps, noise = estimator.inputs(pairs.groups(), draws)
    assert len(noise[..., 0, 0, 0].unique()) == draws.numel()
    for row in timesteps.sort(1).values:  # from the noisiest quarter, without a large gap
        assert int(row[0]) >= 750
        assert int(row[-1]) < 1000
        assert int(row.diff(append=row[:1] + 250).max()) < 2 * 250 / 16
    again = estimator.inputs(pairs.groups()[2:3], draws[2:3, 5:6])
    assert torch.equal(again[0], timesteps[2:3, 5:6])
    assert torch.equal(again[1], noise[2:3, 5:6])


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_every_objective_raises_what_was_chosen(
    denoiser: Denoiser, pairs: PairBatch, objective: str
) -> None:
    settings = replace(OBJECTIVES[objective], updates_base=30, learning_rate=5e-3)
    metrics = list(Training(denoiser, pairs, settings, held_out=pairs))
    assert sum(m.margin for m in metrics[-5:]) > sum(m.margin for m in metrics[:5])
    assert metrics[-1].held_out_agreement > 0.5


def test_steps_are_the_noisiest_fraction_of_the_chain(denoiser: Denoiser, pairs: PairBatch) -> None:
    for fraction, steps in ((1.0, [0, 1, 2, 3]), (0.5, [0, 1]), (0.01, [0])):
        settings = replace(SHORT, timestep_fraction=fraction)
        assert DenoisingSteps(denoiser, pairs, settings).steps.tolist() == steps


@pytest.mark.parametrize("model", ["tiny", "starter"])
def test_a_step_given_its_end_is_a_noised_picture_at_the_chains_own_latent(
    model: str, tiny_model: Path
) -> None:
    """The tiny model predicts noise, the starter velocity: the error of one is that of the other,
    times the weight of the step. And another `next` changes nothing."""
    denoiser = models.load(str(tiny_model) if model == "tiny" else "starter", "cpu")
    pairs = PairBatch.of(sampling.sample_pairs(denoiser, ["a lion"], [3], SAMPLING))
    settings = replace(SHORT_GIVEN_END, timestep_fraction=1.0)
    steps = torch.tensor([[0, 2], [1, 2]])
    alpha_bar = denoiser.schedule(SAMPLING).alpha_bar[steps]
    over = (..., None, None, None)
    latent = torch.stack([pairs.latents[picture, steps[picture]] for picture in (0, 1)])
    noise = latent - alpha_bar.sqrt()[over] * pairs.latents[:, -1:]
    noise /= (1 - alpha_bar).sqrt()[over]
    with torch.no_grad():
        scores = StepsGivenEnd(denoiser, pairs, settings).scores([0, 1], steps)
        errors = velocity_errors(denoiser, pairs, [0, 1], pairs.timesteps[steps], noise)
    # of velocity; of noise they are alpha_bar times as large
    weight = 1 if model == "tiny" else alpha_bar.rsqrt()
    torch.testing.assert_close(scores, -weight * alpha_bar * errors, rtol=1e-3, atol=1e-5)

    other = pairs.latents.clone()
    other[:, 3] += 1.0  # where step 2 leads to
    shifted = replace(pairs, latents=other)
    with torch.no_grad():
        again = StepsGivenEnd(denoiser, shifted, settings).scores([0, 1], steps)
        plain, moved = (
            DenoisingSteps(denoiser, p, settings).scores([0, 1], steps) for p in (pairs, shifted)
        )
    assert torch.equal(again, scores)
    assert (plain == moved).tolist() == [[True, False], [True, False]]


def test_steps_given_the_end_teach_the_starter() -> None:
    """Two updates as in the table of systems, and the chosen pictures are on their way up."""
    denoiser = models.load("starter", "cpu")
    five = SamplingSettings(steps=5)
    pairs = PairBatch.of(sampling.sample_pairs(denoiser, ["a lion", "a car"], [1, 2], five))
    few = {"updates_base": 2, "updates_per_pick": 0, "learning_rate": 3e-3}
    settings = replace(SYSTEMS["D3PO, steps given the end"].settings, **few)
    training = Training(denoiser, pairs, settings)
    assert type(training.estimator) is StepsGivenEnd
    first, second = training
    assert first.loss == pytest.approx(math.log(2))
    assert first.margin == 0 < second.margin


@pytest.mark.parametrize(("share", "least"), [(0.25, 750), (1.0, 0), (0.0001, 999)])
def test_finished_pictures_are_noised_to_the_noisiest_share_of_the_timesteps(
    denoiser: Denoiser, pairs: PairBatch, share: float, least: int
) -> None:
    settings = replace(SHORT_DPO, timestep_fraction=share)
    draws = torch.arange(200).expand(len(pairs), -1)
    timesteps, _ = NoisedPictures(denoiser, pairs, settings).inputs(pairs.groups(), draws)
    assert least <= int(timesteps.min()) <= least + 10
    assert 989 <= int(timesteps.max()) <= 999


@pytest.mark.parametrize("rate", [3e-4, 3e-3])
def test_a_round_ends_where_its_reach_is(denoiser: Denoiser, pairs: PairBatch, rate: float) -> None:
    """However large its steps were: two learning rates that lie a factor of ten apart."""
    free = Training(denoiser, pairs, replace(SHORT_DPO, target_shift=None, learning_rate=rate))
    list(free)
    learned, went = denoiser.adapters.state(), free.shift()
    held = Training(denoiser, pairs, replace(SHORT_DPO, target_shift=went / 2, learning_rate=rate))
    list(held)
    assert held.shift() == pytest.approx(went / 2, rel=0.1)
    for name, value in denoiser.adapters.state().items():
        half = value * 2 if "lora_B" in name else value  # the same taste, half as far
        torch.testing.assert_close(half, learned[name])


def test_left_before_it_was_measured_a_round_is_measured_later_and_once(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    settings = replace(SHORT_DPO, target_shift=0.05)
    *_, last = Training(denoiser, pairs, settings, pairs)
    expected = denoiser.adapters.state()
    left = Training(denoiser, pairs, settings, pairs)
    while not left.has_learned:
        left.learn()
    assert left.is_scaling_due
    assert not left.is_check_due  # it would be asked of an adapter that is not the final one
    state = copy.deepcopy(left.state())
    later = Training(denoiser, pairs, settings, pairs)
    later.load_state(state)
    later.scale()
    state = copy.deepcopy(later.state())
    again = Training(denoiser, pairs, settings, pairs)
    again.load_state(state)
    assert not again.is_scaling_due
    assert again.is_check_due
    assert again.check() == last.held_out_agreement
    assert not again.is_check_due
    for name, value in denoiser.adapters.state().items():
        assert torch.equal(value, expected[name])


def test_measuring_is_left_between_two_pictures(denoiser: Denoiser, pairs: PairBatch) -> None:
    training = Training(denoiser, pairs, SHORT_DPO)
    training.learn()
    total, seen = 2 * len(pairs), []
    training.shift(go_on=lambda done, of: seen.append((done, of)) or done < 2)
    assert seen == [(0, total), (1, total), (2, total)]


def test_what_was_hardly_learned_is_not_blown_up(denoiser: Denoiser, pairs: PairBatch) -> None:
    free = Training(denoiser, pairs, replace(SHORT_DPO, target_shift=None))
    list(free)
    learned = denoiser.adapters.state()
    list(Training(denoiser, pairs, replace(SHORT_DPO, target_shift=3.0)))
    for name, value in denoiser.adapters.state().items():
        factor = MOST_SCALED if "lora_B" in name else 1
        torch.testing.assert_close(value, learned[name] * factor)


def test_a_change_is_that_of_the_guided_velocity(denoiser: Denoiser, pairs: PairBatch) -> None:
    # far enough that the difference of two predictions is not their rounding
    settings = replace(SHORT_DPO, target_shift=None, learning_rate=5e-3)
    training = Training(denoiser, pairs, settings)
    assert training.shift() == 0.0
    list(training)
    draw = torch.Generator().manual_seed(0)
    timesteps, noise = torch.tensor([800]), torch.randn(pairs.latents[:1, 0].shape, generator=draw)
    alpha_bar = denoiser.levels.alpha_bar(timesteps)
    final = pairs.latents[[0], -1]
    noisy = alpha_bar.sqrt() * final + (1 - alpha_bar).sqrt() * noise

    def velocity() -> torch.Tensor:  # v = (noise - sqrt(1 - alpha_bar) x_t) / sqrt(alpha_bar)
        texts = (denoiser.text.embed([pairs.prompts[0]]), denoiser.text.embed_negative("", 1))
        words, empty = (denoiser.predict(noisy, timesteps, text) for text in texts)
        guided = empty + SAMPLING.guidance * (words - empty)
        return (guided - (1 - alpha_bar).sqrt() * noisy) / alpha_bar.sqrt()

    with torch.no_grad():
        tuned = velocity()
        with denoiser.adapters.off():
            moved = tuned - velocity()
        [value] = velocity_changes(denoiser, pairs, [0], timesteps, noise)
    assert float(value) == pytest.approx(float(moved.square().mean()), rel=1e-4)


def test_an_image_level_error_is_that_of_the_velocity() -> None:
    """diffusers' scheduler says what the velocity is; the starter predicts it."""
    denoiser = models.load("starter", "cpu")
    sampled = sampling.sample_pairs(denoiser, ["a lion"], [3], SamplingSettings(steps=2))
    pairs = PairBatch.of(sampled)
    timesteps = torch.tensor([40, 500, 999]).expand(2, -1)
    draw = torch.Generator().manual_seed(1)
    noise = torch.randn((*timesteps.shape, *pairs.latents.shape[2:]), generator=draw)
    with torch.no_grad():
        errors = velocity_errors(denoiser, pairs, [0, 1], timesteps, noise)
        for picture in range(2):
            final = pairs.latents[[picture] * 3, -1]
            at, added = timesteps[picture], noise[picture]
            noisy = denoiser.scheduler.add_noise(final, added, at)
            velocity = denoiser.scheduler.get_velocity(final, added, at)
            predicted = denoiser.network(
                noisy, at, denoiser.text.embed(["a lion"] * 3).states
            ).sample
            expected = (predicted - velocity).square().mean((1, 2, 3))
            torch.testing.assert_close(errors[picture], expected, rtol=2e-3, atol=2e-3)


def test_the_published_settings_draw_every_step_of_one_pair(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    training = Training(denoiser, pairs, OBJECTIVES["d3po"])
    assert training.updates == len(pairs)
    losses = [metrics.loss for metrics in training]
    assert all(0.683 < loss < 0.704 for loss in losses)


@all_kinds
def test_a_run_continued_from_its_state_is_the_run_itself(
    denoiser: Denoiser, picks: PairBatch, short: TrainingSettings
) -> None:
    whole = Training(denoiser, picks, short)
    state = None
    for metrics in whole:
        if metrics.update == 2:
            state = copy.deepcopy(whole.state())
    expected = denoiser.adapters.state()
    again = Training(denoiser, picks, short)
    again.load_state(state)
    assert [metrics.update for metrics in again] == [3, 4]
    actual = denoiser.adapters.state()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_final_latents_are_all_that_noised_pictures_need(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    final = replace(pairs, latents=pairs.latents[:, -1:])
    list(Training(denoiser, pairs, SHORT_DPO))
    expected = denoiser.adapters.state()
    list(Training(denoiser, final, SHORT_DPO))
    for name, value in denoiser.adapters.state().items():
        assert torch.equal(value, expected[name])
    assert reads_only_final(SHORT_DPO)
    for of_steps in (SHORT, SHORT_GIVEN_END):
        assert not reads_only_final(of_steps)
        with pytest.raises(ValueError, match="final latents alone"):
            Training(denoiser, final, of_steps)


@both_kinds
def test_gradient_checkpointing_changes_nothing(
    denoiser: Denoiser, pairs: PairBatch, short: TrainingSettings
) -> None:
    list(Training(denoiser, pairs, short))
    expected = denoiser.adapters.state()
    list(Training(denoiser, pairs, replace(short, gradient_checkpointing=True)))
    actual = denoiser.adapters.state()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


@both_kinds
def test_micro_batches_give_the_same_adapter_to_rounding(
    denoiser: Denoiser, picks: PairBatch, short: TrainingSettings
) -> None:
    list(Training(denoiser, picks, short))
    expected = denoiser.adapters.state()
    list(Training(denoiser, picks, replace(short, micro_batch_pairs=1)))
    for name, value in denoiser.adapters.state().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


PHASES = ("forward", "backward", "optimizer")


@contextmanager
def running_out(phase: str, calls: range) -> Iterator[None]:
    """Memory runs out at these calls of a phase; of an optimizer step after all is changed."""
    places = {
        "forward": [(Denoiser, "predict")],
        "backward": [(torch.Tensor, "backward")],
        "optimizer": [(torch.optim.AdamW, "step"), (ScalarAdam, "step")],
    }[phase]
    made = []

    def failing(whole: Callable[..., object]) -> Callable[..., object]:
        def fails(*arguments: object, **options: object) -> object:
            made.append(phase)
            if len(made) - 1 not in calls:
                return whole(*arguments, **options)
            if phase == "optimizer":
                whole(*arguments, **options)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

        return fails

    with pytest.MonkeyPatch.context() as patched:
        for place, name in places:
            patched.setattr(place, name, failing(getattr(place, name)))
        yield


@both_kinds
@pytest.mark.parametrize("phase", PHASES)
def test_an_update_that_runs_out_of_memory_is_made_again_with_less(
    denoiser: Denoiser, picks: PairBatch, short: TrainingSettings, phase: str
) -> None:
    """To the bit the adapter of a round that was changed to the smaller settings at that update;
    to rounding, that of the round as it was asked for."""
    whole = Training(denoiser, picks, short)
    kept = 3 if phase == "optimizer" else 2  # its gradient is there, and is not computed again
    for _ in range(kept):
        whole.step()
    state = copy.deepcopy(whole.state())
    list(whole)
    asked_for = denoiser.adapters.state()
    less = replace(short, micro_batch_pairs=2, gradient_checkpointing=True)
    changed = Training(denoiser, picks, less)
    changed.load_state(state)
    list(changed)
    expected = denoiser.adapters.state()

    training = Training(denoiser, picks, short)
    for _ in range(2):
        training.step()
    with running_out(phase, range(1)):
        list(training)
    assert training.preset == PRESETS[1]
    assert "at update 3" in training.note
    for name, value in denoiser.adapters.state().items():
        assert torch.equal(value, expected[name])
        torch.testing.assert_close(value, asked_for[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("phase", PHASES)
def test_it_comes_down_to_a_pair_at_a_step_and_then_gives_up_with_a_sentence(
    denoiser: Denoiser, pairs: PairBatch, phase: str
) -> None:
    settings = replace(SHORT_DPO, learning_rate=1e-4)
    list(Training(denoiser, pairs, settings))
    expected = denoiser.adapters.state()
    training = Training(denoiser, pairs, settings)
    with running_out(phase, range(4)):
        list(training)
    assert (training.preset, training.micro_batches.at_once) == (PRESETS[-1], 2)
    for name, value in denoiser.adapters.state().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)

    training = Training(denoiser, pairs, settings)
    with running_out(phase, range(1000)), pytest.raises(TrainingFailed, match="not enough memory"):
        training.step()
    assert training.update == 0


def test_looking_at_the_held_out_pairs_may_run_out_of_memory_and_changes_no_update(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    whole = [metrics.held_out_agreement for metrics in Training(denoiser, pairs, SHORT, pairs)]
    expected = denoiser.adapters.state()
    training = Training(denoiser, pairs, SHORT, pairs)
    training.step()
    groups, epochs = groups_of_update(pairs.groups(), SHORT.batch_pairs, 1, SHORT.seed)
    draws = training.estimator.draws_of_update(epochs, 1)
    training.estimator.gains(groups, draws)  # the reference's part is known from here on
    with running_out("forward", range(1, 2)):  # the first is the update's
        training.step()
    assert training.preset == PRESETS[1]
    assert [metrics.held_out_agreement for metrics in training] == whole[2:]
    for name, value in denoiser.adapters.state().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


def test_a_preset_says_how_much_of_large_pictures_goes_through_the_network_at_once(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    large = replace(pairs, latents=torch.zeros(12, 5, 4, 64, 64))  # 512 px, in float32
    sizes = []
    for preset in PRESETS:
        training = Training(denoiser, large, replace(SHORT_DPO, steps_per_pair=2), preset=preset)
        micro_batches, estimator = training.micro_batches, training.estimator
        parts = list(micro_batches.parts(estimator, large.groups(), 2, micro_batches.at_once))
        covered = {
            (group, step)
            for groups, steps in parts
            for group in range(6)[groups]
            for step in range(2)[steps]
        }
        assert len(covered) == 12
        groups, steps = parts[0]
        sizes.append(2 * len(range(6)[groups]) * len(range(2)[steps]))
        assert denoiser.network.is_gradient_checkpointing
    assert sizes == [16, 8, 4, 2, 2]


def ranked(denoiser: Denoiser) -> list[tuple[Trajectory, Trajectory]]:
    """Three images of each of two prompts, the earlier the better: six pairs of six pictures."""
    pairs = []
    for prompt, first in (("a cat", 0), ("a dog", 3)):
        seeds = list(range(first, first + 3))
        chains = sampling.sample(denoiser, [prompt] * 3, seeds, SAMPLING)
        pairs += combinations(chains, 2)
    return pairs


def test_pairs_that_share_pictures_are_one_group(denoiser: Denoiser) -> None:
    pairs = ranked(denoiser)
    batch = PairBatch.of([pairs[0], pairs[3], *pairs[1:3], *pairs[4:]])
    assert len(batch) == len(batch.latents) == 6
    assert batch.groups() == [[0, 2, 3], [1, 4, 5]]


def test_a_grid_is_one_pick_and_its_update_costs_as_much_as_a_pairs(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    """The best of four: twice the pictures, each looked at half as often."""
    chains = sampling.sample(denoiser, ["a cat"] * 4, [0, 1, 2, 3], SAMPLING)
    grid = PairBatch.of([(chains[0], other) for other in chains[1:]])
    settings = OBJECTIVES["diffusion_dpo"]
    assert Training(denoiser, grid, settings).updates == settings.updates(1)
    assert NoisedPictures(denoiser, grid, settings).draws_per_group == 1
    assert Training(denoiser, pairs, settings).updates == settings.updates(len(pairs))
    of_pairs = NoisedPictures(denoiser, pairs, settings)
    assert of_pairs.draws_per_group == settings.steps_per_pair == 2
    # steps of a chain are those of each of its pictures
    balanced = replace(OBJECTIVES["d3po_balanced"], steps_per_pair=2)
    assert DenoisingSteps(denoiser, grid, balanced).draws_per_group == 2
    whole = DenoisingSteps(denoiser, grid, OBJECTIVES["d3po"])
    assert whole.draws_per_group == len(whole.steps) == SAMPLING.steps


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_a_picture_of_many_pairs_goes_through_the_network_once(
    denoiser: Denoiser, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the losses are those of the same pairs each by itself, at the same draws."""
    batch = PairBatch.of(ranked(denoiser))
    training = Training(denoiser, batch, replace(OBJECTIVES[objective], **FEW))
    with torch.no_grad():  # an untrained adapter has nothing to tell apart
        for parameter in denoiser.adapters.parameters():
            parameter.add_(0.05)
    estimator, groups = training.estimator, batch.groups()
    draws = estimator.draws_of_update([0, 1], 0)
    inputs = estimator.inputs(groups, draws)
    alone = []
    for number, group in enumerate(groups):
        with monkeypatch.context() as patched:
            one = [values[[number]] for values in inputs]
            patched.setattr(estimator, "inputs", lambda *_, one=one: one)
            alone += [torch.stack(estimator.gains([[pair]], draws[[number]])) for pair in group]
    forget_reference(estimator)
    rows: list[int] = []
    predict = denoiser.predict
    monkeypatch.setattr(
        denoiser, "predict", lambda x, *rest: (rows.append(len(x)), predict(x, *rest))[1]
    )
    gains = torch.stack(estimator.gains(groups, draws))
    torch.testing.assert_close(gains, torch.cat(alone, 1), rtol=1e-3, atol=1e-5)
    assert gains.any()
    halves = 2 if training.settings.guided else 1
    assert rows == [halves * 6 * draws.shape[1]] * 2  # the reference, and what is learned


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_an_objective_is_a_way_to_look_and_a_form_of_loss(
    denoiser: Denoiser, pairs: PairBatch, objective: str
) -> None:
    """A loss by hand: gains of 0.3 and -0.1, which D3PO's published clip brings to ln 1.1 - -0.1"""
    settings = OBJECTIVES[objective]
    row = Objective.of(settings)
    by_hand = {
        "diffusion_dpo": math.log1p(math.exp(-80 * 0.4)),
        "d3po_balanced": math.log1p(math.exp(-100 * 0.4)),
        "d3po": math.log1p(math.exp(-0.1 * (math.log(1.1) + 0.1))),
    }
    gains = (torch.tensor([gain], dtype=torch.double) for gain in (0.3, -0.1))
    loss = row.losses(*gains, settings.beta, ALIKE)
    assert loss.item() == pytest.approx(by_hand[objective])
    steps = objective.startswith("d3po")
    assert isinstance(row.estimator(denoiser, pairs, settings), DenoisingSteps) == steps


def test_a_pick_pulls_as_hard_as_the_artist_was_sure(denoiser: Denoiser, pairs: PairBatch) -> None:
    """A tie (1/2) not at all, and "better" (3/4) half as hard as "much better" (1)."""

    def pull(*certainty: float) -> torch.Tensor:
        chains = sampling.sample_pairs(denoiser, PROMPTS[:2], [0, 1], SAMPLING)
        training = Training(denoiser, PairBatch.of(chains, certainty=certainty), SHORT_DPO)
        training.gradient()
        return torch.cat([parameter.grad.flatten() for parameter in training.parameters])

    first, second = pull(1, 0.5), pull(0.5, 1)
    assert not pull(0.5, 0.5).any()
    assert first.norm() > 1e-6
    torch.testing.assert_close(pull(1, 0.75), first + second / 2, rtol=1e-3, atol=1e-5)


def test_a_side_alone_pulls_as_hard_as_in_a_pair(denoiser: Denoiser) -> None:
    [(good, bad)] = sampling.sample_pairs(denoiser, PROMPTS[:1], [0], SAMPLING)
    alone = PairBatch.of([(good, bad), (good, None), (None, bad)])
    assert alone.groups() == [[0, 1, 2]]
    assert alone.most_pictures(alone.groups()) == 2

    def pull(batch: PairBatch) -> torch.Tensor:
        training = Training(denoiser, batch, SHORT_DPO)
        training.gradient()
        return torch.cat([parameter.grad.flatten() for parameter in training.parameters])

    once = pull(PairBatch.of([(good, bad)]))
    assert once.norm() > 1e-6
    torch.testing.assert_close(3 * pull(alone), 2 * once, rtol=1e-3, atol=1e-5)

    training = Training(denoiser, alone, SHORT_DPO)
    with torch.no_grad():
        for parameter in denoiser.adapters.parameters():
            parameter.add_(0.05)
        draws = torch.tensor([[0]])
        chosen, rejected = training.estimator.gains(alone.groups(), draws)
    assert chosen.tolist() == [chosen[0], chosen[0], 0]
    assert rejected.tolist() == [rejected[0], 0, rejected[0]]
    assert chosen[0] != 0 != rejected[0]


def test_sides_alone_share_nothing_with_each_other(denoiser: Denoiser) -> None:
    chains = sampling.sample_pairs(denoiser, PROMPTS[:2], [0, 1], SAMPLING)
    batch = PairBatch.of([(chains[0][0], None), *((None, side) for side in chains[1])])
    assert batch.groups() == [[0], [1], [2]]
    assert batch.most_pictures(batch.groups()) == 1
    assert batch.counts.outer.tolist() == [1.5, 0.75, 0.75]
    with pytest.raises(ValueError, match="at least one side"):
        PairBatch.of([(None, None)])


def test_a_chosen_picture_is_asked_again_with_a_prompt_that_it_does_not_fit(
    denoiser: Denoiser,
) -> None:
    chains = sampling.sample(denoiser, ["a cat"] * 3, [0, 1, 2], SAMPLING)
    of_grid = [(chains[0], chains[1]), (chains[0], chains[2]), (chains[1], chains[2])]
    batch = PairBatch.of(of_grid, wrong_prompts=mismatched, prompt_weight=0.5)
    assert batch.prompts == ("a cat", "a cat", "a cat", "a cat, red background")
    assert torch.equal(batch.latents[3], batch.latents[0])
    assert (batch.chosen[3], batch.rejected[3]) == (0, 3)  # of a grid only the best
    assert batch.counts.outer.tolist() == [1, 1, 1, 0.5]
    assert batch.groups() == [[0, 1, 2, 3]]
    assert (batch.shown, batch.most_shown([[0, 3]]), batch.most_pictures([[0, 3]])) == (3, 2, 3)
    plain = NoisedPictures(denoiser, PairBatch.of(of_grid), SHORT_DPO)
    assert NoisedPictures(denoiser, batch, SHORT_DPO).draws_per_group == plain.draws_per_group


def test_keeping_to_the_prompt_teaches_its_words(denoiser: Denoiser) -> None:
    """Such pairs alone: the picture gets likelier with its own words than with the wrong ones."""
    chains = sampling.sample_pairs(denoiser, PROMPTS, list(range(6)), SAMPLING)
    batch = PairBatch.of(chains, wrong_prompts=mismatched)
    count = batch.again
    only = replace(batch, chosen=batch.chosen[-count:], rejected=batch.rejected[-count:])
    settings = replace(SHORT_DPO, updates_base=8, learning_rate=1e-3)
    first, *_, last = Training(denoiser, only, settings)
    assert first.margin == 0 < last.margin
    assert last.loss < first.loss


def test_the_reach_is_measured_on_pictures_with_their_own_prompts(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    chains = sampling.sample_pairs(denoiser, PROMPTS, list(range(6)), SAMPLING)
    both = PairBatch.of(chains, wrong_prompts=mismatched)
    shifts = []
    for batch in (pairs, both):
        training = Training(denoiser, batch, SHORT_DPO)
        with torch.no_grad():
            for parameter in denoiser.adapters.parameters():
                parameter.add_(0.05)
        shifts.append(training.shift())
    assert shifts[0] == shifts[1] > 0


def test_an_image_level_objective_can_be_trained_through_guidance(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    list(Training(denoiser, pairs, replace(SHORT_DPO, learning_rate=5e-3)))
    prompted = denoiser.adapters.state()
    training = Training(denoiser, pairs, replace(SHORT_DPO, learning_rate=5e-3, guided=True))
    timesteps = torch.tensor([[500]])
    noise = torch.randn(
        (1, 1, *pairs.latents.shape[2:]), generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        [[error]] = velocity_errors(denoiser, pairs, [0], timesteps, noise, guided=True)
        noisy = denoiser.scheduler.add_noise(pairs.latents[[0], -1], noise[0], timesteps[0])
        texts = [denoiser.text.embed([words]) for words in (PROMPTS[0], SAMPLING.negative_prompt)]
        with_words, without = (denoiser.predict(noisy, timesteps[0], text) for text in texts)
        guided = without + SAMPLING.guidance * (with_words - without)
        expected = (guided - noise[0]).square().mean() / denoiser.levels.alpha_bar(timesteps[0])
    assert float(error) == pytest.approx(float(expected), rel=1e-3)
    list(training)
    changed = denoiser.adapters.state()
    assert any(not torch.equal(changed[name], value) for name, value in prompted.items())


def test_an_exploding_round_is_stopped_with_a_sentence(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    training = Training(denoiser, pairs, SHORT)
    training.step()
    with torch.no_grad():
        denoiser.adapters.parameters()[1].fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="not a number"):
        training.step()


def test_pictures_made_without_noise_are_refused(denoiser: Denoiser) -> None:
    still = replace(SAMPLING, eta=0.0, shared_noise=False)
    pairs = PairBatch.of(sampling.sample_pairs(denoiser, ["a cat"], [1], still))
    for of_steps in (SHORT, SHORT_GIVEN_END):
        with pytest.raises(TrainingFailed, match="eta 1"):
            Training(denoiser, pairs, of_steps)


def test_another_base_model_is_refused(denoiser: Denoiser, pairs: PairBatch) -> None:
    with pytest.raises(TrainingFailed, match="another base model"):
        Training(denoiser, replace(pairs, base_hash="other"), SHORT)


def test_an_adapter_survives_its_files(
    denoiser: Denoiser, pairs: PairBatch, tmp_path: Path
) -> None:
    list(Training(denoiser, pairs, SHORT))
    expected = sampling.sample(denoiser, ["a cat"], [1], SAMPLING)[0].latents
    denoiser.adapters.save(tmp_path)
    denoiser.adapters.remove()
    base = sampling.sample(denoiser, ["a cat"], [1], SAMPLING)[0].latents
    with denoiser.adapters.using(tmp_path):
        again = sampling.sample(denoiser, ["a cat"], [1], SAMPLING)[0].latents
    assert torch.equal(again, expected)
    assert not torch.equal(base, expected)
    with denoiser.adapters.using(tmp_path, strength=0.0):
        silent = sampling.sample(denoiser, ["a cat"], [1], SAMPLING)[0].latents
    torch.testing.assert_close(silent, base)
    with denoiser.adapters.using(tmp_path, strength=-1.0):
        turned = sampling.sample(denoiser, ["a cat"], [1], SAMPLING)[0].latents
    step = expected - base  # a small change is nearly linear in its strength
    assert torch.cosine_similarity((turned - base).flatten(), step.flatten(), 0) < -0.9


# --- 8-bit moments -------------------------------------------------------------------------------


def test_8_bit_moments_are_for_small_presets_on_cuda_where_the_library_is(monkeypatch) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert [preset.gb for preset in PRESETS if preset.optimizer_8bit] == [8, 6]
    is_here = memory.eight_bit_adamw() is not None
    for preset in PRESETS:
        assert memory.uses_8bit_optimizer(preset, cuda) == (preset.optimizer_8bit and is_here)
        assert not memory.uses_8bit_optimizer(preset, cpu)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)  # cannot be imported
    assert not memory.uses_8bit_optimizer(PRESETS[-1], cuda)


def test_a_round_that_was_begun_with_8_bit_moments_says_what_it_misses(
    denoiser: Denoiser, pairs: PairBatch, monkeypatch
) -> None:
    training = Training(denoiser, pairs, SHORT)
    training.step()
    state = training.state() | {"optimizer_8bit": True}
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(TrainingFailed, match="Install it again, or begin a new round"):
        Training(denoiser, pairs, SHORT).load_state(state)


def test_with_8_bit_moments_it_goes_on_exactly_and_survives_running_out(
    denoiser: Denoiser, pairs: PairBatch, monkeypatch
) -> None:
    """On the processor, which the library can, too, though the studio has no use for it there."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    settings = replace(SHORT, rank=256)  # weights of fewer numbers than 4096 are kept in 32 bits
    with monkeypatch.context() as patched:
        patched.setattr(memory, "uses_8bit_optimizer", lambda preset, device: True)
        training = Training(denoiser, pairs, settings)
        assert "8-bit optimizer" in training.note
        for _ in range(2):
            training.step()
        kinds = {one["state1"].dtype for one in training.optimizer.state.values()}
        assert torch.uint8 in kinds
        saved = io.BytesIO()
        torch.save(training.state(), saved)
        list(training)
        expected = denoiser.adapters.state()
        training = Training(denoiser, pairs, settings)
        training.step()
        whole, calls = bitsandbytes.optim.AdamW8bit.step, []

        def fails(optimizer: object) -> None:
            whole(optimizer)
            calls.append(1)
            if len(calls) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

        patched.setattr(bitsandbytes.optim.AdamW8bit, "step", fails)
        list(training)
        assert "at update 2" in training.note
        for name, value in denoiser.adapters.state().items():
            torch.testing.assert_close(value, expected[name], rtol=1e-2, atol=1e-4)
    # with a preset that would not have it
    saved.seek(0)
    again = Training(denoiser, pairs, settings)
    again.load_state(torch.load(saved, weights_only=True))
    assert "8-bit optimizer" in again.note
    list(again)
    for name, value in denoiser.adapters.state().items():
        assert torch.equal(value, expected[name])
