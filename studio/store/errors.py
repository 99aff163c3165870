"""What can go wrong with the store. Every message is a sentence the artist can act on."""


class StoreError(Exception):
    """The store could not do what was asked, and nothing of it was done."""


class StoreTooNew(StoreError):
    """The store was written by a newer version of the studio."""


class StoreFull(StoreError):
    """The disk has no room left."""


class StoreDamaged(StoreError):
    """What was read is not what was written."""


class RowDamaged(StoreDamaged):
    """One row does not say what the studio could have written; all others are as they were."""

    def __init__(self, table: str, id_: str, column: str) -> None:
        self.table, self.id = table, id_
        super().__init__(
            f"A row of {table} ({id_}) is damaged: its {column} makes no sense. Close the studio "
            "and run `python launch.py doctor`, which mends it or sets it aside."
        )


class StoreLocked(StoreError):
    """Another studio already serves this home."""
