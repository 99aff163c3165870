"""How a kept picture ranks among the others."""

from studio.bench import best_of


def test_a_kept_picture_ranks_by_the_artists_scores():
    scores = [0.1, 0.4, 0.4, 0.9]
    assert best_of.share_below(scores, 3) == 1
    assert best_of.share_below(scores, 0) == 0
    assert best_of.share_below(scores, 1) == (1 + 0.5) / 3
