"""The Swiss tournament: worked by hand, and what holds for every one."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from studio.swiss import Game, next_pairs, rounds_of


def test_the_first_round_pairs_neighbours():
    assert next_pairs("abcd", []) == [("a", "b"), ("c", "d")]
    assert next_pairs("abcd", [], most=1) == [("a", "b")]


def test_the_second_round_waits_for_the_first_and_then_winners_meet():
    first = [Game("a", "b", 0.0), Game("c", "d", 1.0)]
    assert next_pairs("abcd", [first[0], Game("c", "d", None)]) == []
    assert next_pairs("abcd", first) == [("b", "c"), ("a", "d")]


def test_a_round_that_was_given_in_part_goes_on():
    assert next_pairs("abcd", [Game("a", "b", None)]) == [("c", "d")]
    assert next_pairs("abcd", [Game("a", "b", 1.0)]) == [("c", "d")]


def test_nobody_meets_the_same_one_twice():
    games = [Game("a", "b", 0.5), Game("c", "d", 0.5)]
    assert next_pairs("abcd", games) == [("a", "c"), ("b", "d")]


def test_three_meet_each_other():
    games: list[Game] = []
    met = []
    while pairs := next_pairs("abc", games, most=1):
        met += [set(pair) for pair in pairs]
        games += [Game(*pair, 1.0) for pair in pairs]
    assert sorted(map(sorted, met)) == [["a", "b"], ["a", "c"], ["b", "c"]]


def test_it_ends():
    assert next_pairs("a", []) == []
    assert next_pairs("", []) == []
    assert next_pairs("ab", [Game("a", "b", 1.0)]) == []
    assert [rounds_of(n) for n in (0, 1, 2, 3, 4, 5, 8, 9)] == [0, 0, 1, 2, 2, 3, 3, 4]


def test_newcomers_play_first_and_games_of_others_do_not_count():
    games = [Game("a", "b", 1.0), Game("x", "a", None)]
    assert next_pairs("abcd", games) == [("c", "d")]


def scores_from(strengths: list[int], first: str, second: str) -> float:
    difference = strengths[int(first)] - strengths[int(second)]
    return 0.5 if difference == 0 else float(difference > 0)


@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=40),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_no_pair_twice_and_all_play_about_equally_often(strengths, most, waiting):
    entrants = [str(number) for number in range(len(strengths))]
    games: list[Game] = []
    open_: list[tuple[str, str]] = []
    while True:
        asked = [*games, *(Game(*pair, None) for pair in open_)]
        pairs = next_pairs(entrants, asked, most)
        open_ += pairs
        if not open_:
            break
        while open_ and (len(open_) > waiting or not pairs):
            first, second = open_.pop(0)
            games.append(Game(first, second, scores_from(strengths, first, second)))
    pairs_met = [frozenset((game.first, game.second)) for game in games]
    assert len(set(pairs_met)) == len(pairs_met)
    played = Counter(one for pair in pairs_met for one in pair)
    rounds = rounds_of(len(entrants))
    assert min(played[one] for one in entrants) == rounds
    assert max(played.values()) <= rounds + 2
    assert len(games) <= len(entrants) * (rounds + 1) / 2 + 1


@given(st.integers(2, 33))
def test_the_best_is_found(number):
    entrants = [str(n) for n in range(number)]
    strengths = [(n * 17) % 41 for n in range(number)]
    games: list[Game] = []
    while pairs := next_pairs(entrants, games):
        games += [Game(a, b, scores_from(strengths, a, b)) for a, b in pairs]
    wins = Counter(game.first if game.score else game.second for game in games)
    best = max(entrants, key=lambda one: strengths[int(one)])
    losses = Counter(game.second if game.score else game.first for game in games)
    assert wins[best] >= rounds_of(number)
    assert losses[best] == 0
