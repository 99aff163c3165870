"""Picks in the formats of other programs: exported to them, and imported from them.

These formats are written and read:

pickapic    a folder for the `datasets` library, with parquet files in `data/`. It has the columns
            of Pick-a-Pic (yuvalkirstain/pickapic_v1 and _v2), which diffusers' train_diffusion_dpo
            reads: a row for each pick, which contains the pictures as PNG. Columns of our own
            follow: how the pictures were drawn.
folders     pictures of the same names in `chosen/` and `rejected/`, with the prompts in text files
            beside them, and what SimpleTuner, OneTrainer and Flow-Factory need to find them. Only
            picks of left or right.
d3po        a folder in the format of D3PO's published code (yk7333/d3po): `images/00000.png`
            onwards, `prompt.json` with a prompt for each row, and `preference.json` with a score
            for each picture of a row. Scores of several such files are added up.

An artist's own pairs are read as `folders`: the prompt is in a text file of either folder (.txt or
.caption) or in the picture itself, as A1111 and the studio write it. Where there is a
`train.jsonl`, it alone says which pairs there are.

Imported pictures have no denoising steps: Diffusion-DPO can learn from them, and D3PO cannot. They
are stored as drawn without noise (eta 0), which D3PO refuses.

Marks on pictures are written in `pickapic` alone, and never read: an imported picture of another
shape is cut, and they would lie beside what was marked.
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
