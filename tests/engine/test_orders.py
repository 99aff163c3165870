"""How an order of pictures counts, on a real, small Stable Diffusion folder."""

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch

from studio import models
from studio.engine import sampling
from studio.engine.orders import counted
from studio.engine.training import Training
from studio.engine.trajectory import PairBatch
from studio.models import Denoiser
from studio.prompting.mismatched import mismatched
from studio.settings import SamplingSettings, SettingsError, TrainingSettings

SAMPLING = SamplingSettings(steps=4, width_px=64, height_px=64, guidance=3.0)
SETTINGS = TrainingSettings(updates_base=1, updates_per_pick=0, target_shift=None)


@pytest.fixture(scope="module")
def denoiser(tiny_model: Path) -> Denoiser:
    return models.load(str(tiny_model), "cpu")


@pytest.fixture(scope="module")
def order(denoiser: Denoiser) -> PairBatch:
    """A grid of four in order, a pair, and a picture alone; all asked with wrong prompts, too."""
    chains = sampling.sample(denoiser, ["a cat"] * 7, list(range(7)), SAMPLING)
    pairs = [*combinations(chains[:4], 2), (chains[4], chains[5]), (chains[6], None)]
    return PairBatch.of(pairs, only_final=True, wrong_prompts=mismatched)


def test_pairs_far_apart_count_more_and_one_on_the_mean(order: PairBatch) -> None:
    by_hand = [0.219691, 0.533854, 0.821360, 0.061858, 0.169703, 0.025995]
    mean = sum(by_hand) / 6
    weights = counted(order, "rank").counts.outer
    assert weights[:6].tolist() == pytest.approx([each / mean for each in by_hand], rel=1e-4)
    assert torch.equal(weights[6:], order.counts.outer[6:])
    assert counted(order, "pairs") is order


def test_a_picture_is_chosen_from_all_after_it(order: PairBatch) -> None:
    lists = counted(order, "list").counts.lists
    assert lists[:7].tolist() == [0, 0, 0, 1, 1, 2, 4]
    by_themselves = lists[7:].tolist()  # a side alone, and pictures under wrong prompts
    assert len({*lists[:7].tolist(), *by_themselves}) == 4 + len(by_themselves)


def test_an_untrained_adapter_takes_all_orders_for_equally_likely(
    denoiser: Denoiser, order: PairBatch
) -> None:
    """log 4! for the order of four, and log 2 for everything else; every draw has its own lists."""
    batch = counted(order, "list")
    training = Training(denoiser, batch, SETTINGS)
    loss, _ = training.gradient()
    draws = training.estimator.draws_per_group
    pairs = len(batch) - 1  # the side alone loses log 2 on both sides, at its weight of a half
    expected = math.log(24) + math.log(2) * (pairs - 6) + 2 * math.log(2) / 2
    assert loss.sum().item() == pytest.approx(draws * expected, rel=1e-5)


def test_a_list_pulls_its_best_as_its_softmax(denoiser: Denoiser) -> None:
    """Untrained, the best of three is pulled by a half from the sum of three pairs' pull: the
    softmax has 1/3 on each of the others, sigmoid 1/2 on one."""
    chains = sampling.sample(denoiser, ["a cat"] * 3, [0, 1, 2], SAMPLING)
    batch = PairBatch.of([(chains[0], chains[1]), (chains[0], chains[2])])

    def pull(batch: PairBatch) -> torch.Tensor:
        training = Training(denoiser, batch, replace(SETTINGS, steps_per_pair=2))
        training.gradient()
        return torch.cat([parameter.grad.flatten() for parameter in training.parameters])

    pairs, as_list = pull(batch), pull(counted(batch, "list"))
    assert pairs.norm() > 1e-6
    # two terms at 1/3 in the place of two at 1/2; the list stands in two halves in its two pairs
    torch.testing.assert_close(as_list, pairs * (1 / 3) / (1 / 2), rtol=1e-3, atol=1e-6)


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(SettingsError, match="Unknown way to count an order: best"):
        TrainingSettings(orders="best")
