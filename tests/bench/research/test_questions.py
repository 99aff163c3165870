"""What a click says by how it was asked: the arithmetic by hand, and a whole run on the starter."""

from __future__ import annotations

import json

import pytest
import torch

from studio.bench.research import questions

pytestmark = pytest.mark.nightly

SCORES = [2.0, 3.0, 1.0, 4.0]


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("the better of 2", {(1, 0)}),
        ("the best of 3", {(1, 0), (1, 2)}),
        ("the best of 4", {(3, 0), (3, 1), (3, 2)}),
        ("the best and the worst of 4", {(3, 2), (3, 0), (3, 1), (0, 2), (1, 2)}),
        ("all 4 in order", {(3, 1), (3, 0), (3, 2), (1, 0), (1, 2), (0, 2)}),
    ],
)
def test_what_is_told_apart(name: str, pairs: set) -> None:
    said = questions.QUESTIONS[name](SCORES, torch.zeros(4, 4))
    assert len(said) == len(pairs)
    assert set(said) == pairs


def test_of_the_most_different_the_better_one() -> None:
    apart = torch.zeros(4, 4)
    apart[0, 2] = apart[2, 0] = 5.0
    apart[1, 3] = apart[3, 1] = 4.0
    ask = questions.QUESTIONS["the better of the 2 most different of 4"]
    assert ask(SCORES, apart) == [(0, 2)]


def test_the_agreement_by_hand() -> None:
    """Four pictures, the better of each pair further along the first axis.

    Taught (3, 4) alone, the direction is (3, 4): it agrees with (1, 0), and not with (1, -1).
    """
    pictures = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, -1.0], [0, 0]])
    rows = torch.tensor([(0, 1), (2, 3), (4, 5)])
    gram = pictures @ pictures.T
    assert questions.agreement(gram, rows[:1], rows[1:], None) == 0.5
    assert questions.agreement(gram, rows[:1], rows[1:], 1.0) == 0.5


def test_a_ridge_weighs_down_what_pairs_share_by_chance() -> None:
    """By hand: the taste is the first axis; on the second, larger one, the pairs are opposed.

    Taught (1, 9) and (1, -8), the sum is (2, 1), and of (1, -3) the wrong one is thought better;
    solved exactly the weights are in the ratio 8 : 9, the direction lies along (1, 0).
    """
    pictures = torch.tensor([[1.0, 9.0], [1.0, -8.0], [1.0, -3.0], [0.0, 0.0]])
    rows = torch.tensor([(0, 3), (1, 3), (2, 3)])
    gram = pictures @ pictures.T
    assert questions.agreement(gram, rows[:2], rows[2:], None) == 0.0
    assert questions.agreement(gram, rows[:2], rows[2:], 1e-6) == 1.0


def test_places_weigh_as_in_rankdpo_by_hand() -> None:
    """Gains 1, 0.587, 0.260, 0; discounts 1.443, 0.910, 0.721, 0.621."""
    assert questions.rank_weights() == pytest.approx(
        [0.2198, 0.5339, 0.8214, 0.0618, 0.1697, 0.0260], abs=5e-4
    )


def test_what_counts_more_turns_the_direction() -> None:
    """Taught (1, 0) and (0, 1), of which the first counts three times as much, or alike."""
    pictures = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.5], [0.0, 0.0]])
    rows = torch.tensor([(0, 3), (1, 3), (2, 3)])
    gram = pictures @ pictures.T
    for ridge in (None, 1.0):
        for counts, share in ((None, 0.0), (torch.tensor([3.0, 1.0]), 1.0)):
            assert questions.agreement(gram, rows[:2], rows[2:], ridge, counts) == share


def test_a_whole_run(tmp_path, capsys) -> None:
    path = tmp_path / "questions.json"
    few = ["--prompts", "4", "--draws", "1", "--clicks", "2", "--artists", "bright", "dark"]
    assert questions.main([*few, "--json", str(path)]) == 0
    assert "| the best of 4 |" in capsys.readouterr().out
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == len(questions.QUESTIONS)
    by_name = {row["question"]: row for row in rows}
    two = by_name["the better of 2"]["summed"]
    assert two["bright"] == two["dark"]  # the opposite taste is told apart by the same pairs
    assert all(0 <= share <= 1 for row in rows for share in row["weighed"].values())


def test_more_clicks_than_prompts_are_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        questions.main(["--prompts", "4", "--clicks", "4"])
    assert "more prompts than clicks" in capsys.readouterr().err
