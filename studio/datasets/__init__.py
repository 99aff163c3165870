"""Picks in the formats of other programs: exported to them, and imported from them.

Two formats are written and read:

pickapic    a folder for the `datasets` library, with one parquet file in `data/`. It has the
            columns of Pick-a-Pic (yuvalkirstain/pickapic_v1 and _v2): a row for each pick, which
            contains the pictures as PNG. Columns of our own follow: how the pictures were drawn.
d3po        a folder in the format of D3PO's published code (yk7333/d3po): `images/00000.png`
            onwards, `prompt.json` with a prompt for each row, and `preference.json` with a score
            for each picture of a row. Scores of several such files are added up.

A third is only read: a folder of the artist's own pairs, with pictures of the same names in
`chosen/` and `rejected/`, and the prompt in a text file of that name in either folder (.txt or
.caption) or in the picture itself, as A1111 and the studio write it.

Imported pictures have no denoising steps: Diffusion-DPO can learn from them, and D3PO cannot. They
are stored as drawn without noise (eta 0), which D3PO refuses.
"""

from studio.datasets.forms import FORMS, read, write
from studio.datasets.importing import ImportResult, import_picks
from studio.datasets.picks import ExchangeError, ForeignPick

__all__ = [
    "FORMS",
    "ExchangeError",
    "ForeignPick",
    "ImportResult",
    "import_picks",
    "read",
    "write",
]
