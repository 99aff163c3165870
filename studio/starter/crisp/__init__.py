"""The recipe of the crisp starter: see `train`."""
