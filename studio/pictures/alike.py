"""Pictures that look nearly the same: found by a hash of how light goes from left to right.

The hash is dHash: a picture is reduced to 9 x 8 greys, and each bit says whether a grey is lighter
than its left neighbour. Another size, format or quality changes none or few of the 64 bits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from PIL import Image

BANDS, BAND_BITS = 4, 16
MOST_DIFFERENT = BANDS - 1  # bits: then at least one of the bands is equal, by which they are found


def difference_hash(picture: Image.Image) -> int:
    """64 bits; those of near-duplicates differ in at most `MOST_DIFFERENT`."""
    small = picture.convert("L").resize((9, 8), Image.Resampling.LANCZOS)
    greys = np.asarray(small).astype(int)
    lighter = greys[:, 1:] > greys[:, :-1]
    return int.from_bytes(np.packbits(lighter).tobytes())


def sets_of(hashes: Sequence[int]) -> list[int]:
    """For each picture the place of the first one of its set; of a picture alone, its own place.

    A picture joins the first earlier set with whose first picture it is nearly equal, so that no
    chain of small changes makes one set of everything.
    """
    firsts: dict[tuple[int, int], list[int]] = defaultdict(list)  # (band, its bits) -> places
    same: dict[int, int] = {}  # of equal hashes
    found = []
    for place, hash_ in enumerate(hashes):
        if hash_ not in same:
            bands = [
                (band, hash_ >> BAND_BITS * band & (1 << BAND_BITS) - 1) for band in range(BANDS)
            ]
            near = [
                first
                for band in bands
                for first in firsts[band]
                if (hashes[first] ^ hash_).bit_count() <= MOST_DIFFERENT
            ]
            same[hash_] = min(near, default=place)
            if not near:
                for band in bands:
                    firsts[band].append(place)
        found.append(same[hash_])
    return found
