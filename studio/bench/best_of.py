"""Does an adapter know which of several pictures the artist would like best?

    python launch.py bench best-of --artists blue_background bright --picks 32

After a round, the tuned model draws several pictures of each held-out prompt. The picture with the
largest reward (`studio.engine.ranking`) is kept, as `generate --best-of` does, and the artist says
how it ranks among them: 0.5 on the average is chance, 1 is the artist's own choice each time.
Beside it stands the order by the likelihood under the tuned model alone, without the base.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from studio.bench import clicks, timing
from studio.bench.artists import Artist
from studio.bench.curves import ARTISTS, artist_named
from studio.bench.held_out import split_prompts
from studio.engine import ranking, recogniser, sampling
from studio.settings import TrainingSettings


def share_below(scores: list[float], kept: int) -> float:
    """Of the other pictures, those that the artist likes less than the kept one; equals half."""
    others = scores[:kept] + scores[kept + 1 :]
    below = sum((score < scores[kept]) + 0.5 * (score == scores[kept]) for score in others)
    return below / len(others)


def run(artist: Artist, picks: int, many: int, prompts: int, seed: int) -> dict[str, float]:
    """The mean `share_below` of what is kept by reward, and by likelihood alone."""
    judge = recogniser.load()
    session = clicks.session_settings(TrainingSettings().objective, {"seed": seed})
    denoiser = clicks.load_base(session.base_model)
    training, held_out = split_prompts(judge, seed)
    list(clicks.teach(denoiser, artist, training, [picks], 0.0, session, seed))
    shares: dict[str, list[float]] = {"reward": [], "likelihood": []}
    for number, prompt in enumerate(held_out.objects[:prompts]):
        seeds = range(1000 * number, 1000 * number + many)
        chains = sampling.sample(denoiser, [prompt] * many, list(seeds), session.sampling)
        scores = [artist(image, prompt) for image in sampling.images(denoiser, chains)]
        tuned = ranking.scores(denoiser, chains)
        with denoiser.adapters.off():
            base = ranking.scores(denoiser, chains)
        shares["reward"].append(share_below(scores, int((tuned - base).argmax())))
        shares["likelihood"].append(share_below(scores, int(tuned.argmax())))
    return {name: statistics.mean(values) for name, values in shares.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="launch.py bench best-of",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--artists", nargs="+", choices=ARTISTS, default=ARTISTS)
    parser.add_argument("--picks", type=int, default=32)
    parser.add_argument("--many", type=int, default=8, help="pictures of which one is kept")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    rows = []
    for name in args.artists:
        row = run(artist_named(name), args.picks, args.many, args.prompts, args.seed)
        rows.append({"artist": name, "picks": args.picks, "many": args.many} | row)
        print(f"{name}: by reward {row['reward']:.2f}, by likelihood {row['likelihood']:.2f}")
    means = [statistics.mean(row[name] for row in rows) for name in ("reward", "likelihood")]
    print(f"mean: by reward {means[0]:.2f}, by likelihood {means[1]:.2f}")
    timing.write(args.json, rows)
    return 0
