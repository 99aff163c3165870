"""The preference losses against numbers worked by hand."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studio.maths.objectives import (
    FORMS,
    Counts,
    balance,
    beside,
    clip,
    dpo,
    ipo,
    losses,
    of_lists,
    rank_weights,
)


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_dpo_by_hand() -> None:
    # gains: chosen -1 - (-3) = 2, rejected -4 - (-3.5) = -0.5; margin 2.5; beta 0.4: sigmoid(1)
    loss = dpo(of(2), of(-0.5), beta=0.4)
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-1))))
    assert dpo(clip(of(2), None), of(-0.5), beta=0.4).item() == loss.item()


def test_an_untrained_adapter_loses_log_2_and_pulls_both_ways() -> None:
    chosen, rejected = of(0).requires_grad_(), of(0).requires_grad_()
    loss = dpo(chosen, rejected, beta=0.1)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2))
    # d loss / d chosen = -beta · sigmoid(-margin) = -0.05
    assert chosen.grad.item() == pytest.approx(-0.05)
    assert rejected.grad.item() == pytest.approx(0.05)


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_the_published_loss_stays_between_its_bounds(chosen: float, rejected: float) -> None:
    loss = dpo(clip(of(chosen), 0.1), clip(of(rejected), 0.1), beta=0.1)
    assert 0.683 < loss.item() < 0.704


def test_a_ratio_is_kept_within_its_range() -> None:
    loss = dpo(clip(of(3.0), 0.1), clip(of(-3.0), 0.1), beta=1.0)  # margin ln(1.1 / 0.9)
    assert loss.item() == pytest.approx(math.log(1 + 0.9 / 1.1))


def test_a_clipped_step_has_no_gradient() -> None:
    chosen = of(3.0).requires_grad_()
    dpo(clip(chosen, 0.1), of(0), beta=0.1).sum().backward()
    assert chosen.grad.item() == 0.0


# --- the family ----------------------------------------------------------------------------------

# Errors of the policy 0.3 and 0.6, of the reference 0.5 and 0.5, beta 20: gains are half of the
# difference, so c = 2, r = -1, z = 3. The values are worked by hand from the formulas.
BETA = 20.0
CHOSEN, REJECTED = (0.5 - 0.3) / 2, (0.5 - 0.6) / 2
BY_HAND = {
    "dpo": 0.048587,
    "ipo": 6.25,
    "hinge": 0.0,
    "linear": -3.0,
    "smoothed": 0.348587,
    "robust": -0.326413,
    "capped": 0.313262,
    "jensen_shannon": 0.089138,
    "forward_kl": 0.072833,
    "half_alpha": 0.074342,
    "anchored": 0.048587 - 0.005 * 2,
    "asymmetric": 0.078890,
    "nca": 1.347023,
    "sppo": 2.5,
    "kto": 0.388144,
    "bco": 0.440190,
    "seppo": 0.048587,
}
# d loss / d c and d loss / d r of an untrained adapter: worked by hand, with sigmoid(0) = 1/2.
AT_0 = {
    "dpo": (-0.5, 0.5),
    "ipo": (-1, 1),
    "hinge": (-1, 1),
    "linear": (-1, 1),
    "smoothed": (-0.4, 0.4),
    "robust": (-0.625, 0.625),
    "capped": (-0.5, 0.5),
    "jensen_shannon": (-0.5, 0.5),
    "forward_kl": (-0.5, 0.5),
    "half_alpha": (-0.5, 0.5),
    "anchored": (-0.505, 0.5),
    "asymmetric": (-0.5, 0.25),
    "nca": (-0.25, 0.25),
    "sppo": (-1, 1),
    "kto": (-0.25, 0.25),
    "bco": (-0.5, 0.5),
    "seppo": (-0.5, 0.0),
}
OF_THE_MARGIN = ("dpo", "ipo", "hinge", "linear", "smoothed", "robust", "capped")
SUMS_OF_SIDES = ("kto", "bco", "nca", "sppo")


@pytest.mark.parametrize("name", FORMS)
def test_each_form_by_hand(name: str) -> None:
    loss = FORMS[name](of(CHOSEN), of(REJECTED), BETA)
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(BY_HAND[name], abs=1e-6)


def test_seppo_learns_from_both_where_the_chosen_one_is_worse_than_before() -> None:
    """Errors of the policy 0.5 and 0.6, of the reference 0.3 and 0.5: c = -2, r = -1, s = -1."""
    loss = FORMS["seppo"](of((0.3 - 0.5) / 2), of((0.5 - 0.6) / 2), BETA)
    assert loss.item() == pytest.approx(3.048587, abs=1e-6)


def test_a_hinge_that_is_not_reached_yet() -> None:
    assert FORMS["hinge"](of(CHOSEN), of(REJECTED), 4.0).item() == pytest.approx(0.4)


@pytest.mark.parametrize("name", FORMS)
def test_where_each_form_pulls_an_untrained_adapter(name: str) -> None:
    chosen, rejected = of(0).requires_grad_(), of(0).requires_grad_()
    FORMS[name](chosen, rejected, BETA).sum().backward()
    found = (chosen.grad.item() / BETA, rejected.grad.item() / BETA)
    assert found == pytest.approx(AT_0[name])


@pytest.mark.parametrize("name", OF_THE_MARGIN)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))
def test_forms_of_the_margin_see_the_difference_alone(name, chosen, rejected, both) -> None:
    form = FORMS[name]
    moved = form(of(chosen + both), of(rejected + both), 2.0)
    assert moved.item() == pytest.approx(form(of(chosen), of(rejected), 2.0).item(), abs=1e-9)


@pytest.mark.parametrize("name", SUMS_OF_SIDES)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_forms_that_are_sums_need_no_partner(name, chosen, rejected) -> None:
    form = FORMS[name]
    whole, none = form(of(chosen), of(rejected), 2.0), form(of(0), of(0), 2.0)
    sides = form(of(chosen), of(0), 2.0) + form(of(0), of(rejected), 2.0) - none
    assert whole.item() == pytest.approx(sides.item(), abs=1e-9)


@pytest.mark.parametrize("name", FORMS)
def test_no_gain_is_too_large_for_a_form(name: str) -> None:
    gains = torch.tensor([-1e4, 1e4]).requires_grad_()
    loss = FORMS[name](gains, gains.flip(0), BETA).mean()
    loss.backward()
    assert loss.isfinite()
    assert gains.grad.isfinite().all()


def test_ipo_asks_for_a_margin_of_a_half() -> None:
    margins = torch.linspace(-1, 2, 301, dtype=torch.float64)
    best = margins[ipo(margins, torch.zeros_like(margins), 1.0).argmin()]
    assert best.item() == pytest.approx(0.5)


@given(st.floats(-2, 2))
def test_robust_dpo_is_right_on_the_mean(margin: float) -> None:
    """Of labels wrong one time in ten, its mean is the loss of the right label."""
    right, wrong = (FORMS["robust"](of(m), of(0), 1.0).item() for m in (margin, -margin))
    assert 0.9 * right + 0.1 * wrong == pytest.approx(dpo(of(margin), of(0), 1.0).item())


# --- how much a pair counts ----------------------------------------------------------------------


def counted(counts: Counts, form: str = "dpo") -> float:
    return losses(FORMS[form], of(CHOSEN), of(REJECTED), BETA, counts).item()


@pytest.mark.parametrize(
    ("counts", "form", "expected"),
    [
        (Counts(), "dpo", 0.048587),
        (Counts(inner=of(0.5)), "dpo", 0.201413),  # SmPO, alpha 3/4
        (Counts(inner=of(0.0)), "dpo", 0.693147),  # a tie
        (Counts(offset=of(1.0)), "dpo", 0.126928),  # ODPO; SimPO with a margin of 1
        (Counts(inner=of(2.0), offset=of(1.0)), "dpo", 0.006715),  # MODPO, w 1/2, R 1
        (Counts(offset=of(0.5)), "ipo", 4.0),  # PRDP, rewards 1 apart
        (Counts(offset=of(1.5)), "ipo", 1.0),  # PRDP, rewards 2 apart
        (Counts(outer=of(0.606531)), "dpo", 0.606531 * 0.048587),  # Ctrl-U, variance 1/2
    ],
)
def test_what_a_pick_says_beyond_better_by_hand(counts, form, expected) -> None:
    assert counted(counts, form) == pytest.approx(expected, abs=1e-6)


def test_beside_another_taste_by_hand() -> None:
    """w = 1/2, and the other taste's margin R = 20 · (0.08 - 0.03) = 1: (3 - 1/2) / (1/2) = 5."""
    counts = beside(Counts(), of(0.08), of(0.03), BETA, share=0.5)
    assert counted(counts) == pytest.approx(0.006715, abs=1e-6)
    # w = 1/4, R = 2, and a pick that counts by half: (3 / 2 - 1/4 · 2) / (3/4) = 4/3
    half = beside(Counts(inner=of(0.5)), of(0.1), of(0.0), BETA, share=0.25)
    assert counted(half) == pytest.approx(math.log1p(math.exp(-4 / 3)), abs=1e-6)


def test_a_side_alone_by_hand() -> None:
    """As `bco` where the form needs both sides; the side that is absent has a gain of 0."""
    alone = Counts(alone=torch.tensor([True]))
    for form, chosen, rejected, expected in (
        ("dpo", CHOSEN, 0.0, 0.126928 + 0.693147),  # -log sigmoid(2) - log sigmoid(0)
        ("bco", 0.0, REJECTED, 0.693147 + 0.313262),  # -log sigmoid(0) - log sigmoid(1)
        ("kto", CHOSEN, 0.0, 0.119203 + 0.5),  # 1 - sigmoid(2) + sigmoid(0)
    ):
        loss = losses(FORMS[form], of(chosen), of(rejected), BETA, alone)
        assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_pairs_and_sides_alone_keep_their_forms() -> None:
    chosen, rejected = of(CHOSEN, CHOSEN), of(REJECTED, 0.0)
    both = losses(dpo, chosen, rejected, BETA, Counts(alone=torch.tensor([False, True])))
    assert both.tolist() == pytest.approx([0.048587, 0.820075], abs=1e-6)


def test_good_and_bad_sides_weigh_alike_by_hand() -> None:
    """One good and two bad sides, and a pair: 3/2, 3/4 and 3/4."""
    good, bad = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1]]).bool()
    assert balance(good, bad).tolist() == [1, 1.5, 0.75, 0.75]


def test_a_tie_teaches_nothing() -> None:
    chosen = of(0.3).requires_grad_()
    losses(dpo, chosen, of(0.1), BETA, Counts(inner=of(0.0))).sum().backward()
    assert chosen.grad.item() == 0


# --- lists ---------------------------------------------------------------------------------------

LIST = torch.tensor([[0.3, 0.1, 0.0, -0.2]], dtype=torch.float64) / 2  # gains, the best first


def of_order(gains: torch.Tensor) -> torch.Tensor:
    """The loss of an order, the best first: each picture against all after it."""
    first, second = torch.triu_indices(len(gains), len(gains), 1)
    chosen, rejected = gains[first], gains[second]
    return losses(dpo, chosen, rejected, BETA, Counts(lists=first)).sum()


def test_lists_by_hand() -> None:
    """Plackett-Luce of four, and the best of four by its softmax."""
    assert of_order(LIST[0]).item() == pytest.approx(0.651456, abs=1e-6)
    margins = BETA * (LIST[0, 0] - LIST[0, 1:])
    loss = of_lists(margins, torch.tensor([7, 7, 7]), of(9, 9, 9))
    assert loss.tolist() == pytest.approx([0.175515 / 3] * 3, abs=1e-6)


def test_a_list_of_two_is_a_pair_of_any_form() -> None:
    for name, form in FORMS.items():
        alone = losses(form, of(CHOSEN), of(REJECTED), BETA, Counts(lists=torch.tensor([3])))
        assert alone.item() == pytest.approx(BY_HAND[name], abs=1e-6)


def test_the_orders_of_a_list_have_probabilities_that_add_up_to_one() -> None:
    orders = [LIST[0][list(order)] for order in itertools.permutations(range(4))]
    assert sum(math.exp(-of_order(gains)) for gains in orders) == pytest.approx(1)


def test_no_margin_is_too_large_for_a_list() -> None:
    margins = torch.tensor([-1e4, 1e4, 3e4, -2e4]).requires_grad_()
    loss = of_lists(margins, torch.tensor([0, 0, 0, 1]), margins).sum()
    loss.backward()
    assert loss.isfinite()
    assert margins.grad.isfinite().all()


def test_pictures_that_win_alike_have_one_weight() -> None:
    """The best of four was named: it wins 1, the others 0, with the mean of three discounts."""
    weights = rank_weights(of(0, 1, 0, 0))
    discount = (1 / math.log(3) + 1 / math.log(4) + 1 / math.log(5)) / 3
    expected = 1 / math.log(2) - discount
    assert weights[1, [0, 2, 3]].tolist() == pytest.approx([expected] * 3)
    assert weights[0, 2] == 0


def test_rank_weights_by_hand() -> None:
    weights = rank_weights(of(1, 2 / 3, 1 / 3, 0))
    above = weights[torch.triu_indices(4, 4, 1).unbind()]
    expected = [0.219691, 0.533854, 0.821360, 0.061858, 0.169703, 0.025995]
    assert above.tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(weights, weights.T)
    first, second = torch.triu_indices(4, 4, 1)
    counts = Counts(outer=above)
    loss = losses(dpo, LIST[0][first], LIST[0][second], BETA, counts).sum()
    assert loss.item() == pytest.approx(0.090262, abs=1e-6)
