"""Names of a network's layers in LoRA files, whichever the family."""

from __future__ import annotations

import re
from collections.abc import Iterator

from studio.lora import flux2
from studio.lora.names import Spelling, unet_spellings


def network_spellings(layer: str) -> Iterator[Spelling]:
    """All names in LoRA files for a layer of a network, by diffusers' name of it."""
    if flux2.is_layer(layer):
        yield from flux2.spellings(layer)
    else:
        yield from map(Spelling, unet_spellings(layer))


def network_layers(key: str) -> int:
    """How many layers in diffusers a key of a LoRA file changes."""
    return 3 if re.search(r"[._]qkv\.", key) else 1
