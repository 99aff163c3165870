"""The store's errors. Every message is a sentence that the artist can act on."""


class StoreError(Exception):
    """The store refused or failed, and nothing was changed."""


class AlreadyAnswered(StoreError):
    """A judge may not replace an answer that holds."""


class StoreTooNew(StoreError):
    """The store was written by a newer version of the studio."""


class StoreFull(StoreError):
    """The disk has no room left."""


class StoreDamaged(StoreError):
    """Something was not read as it was written."""


class RowDamaged(StoreDamaged):
    """One row holds a value that the studio could not have written."""

    def __init__(self, table: str, id_: str, column: str) -> None:
        self.table, self.id = table, id_
        super().__init__(
            f"A row of {table} ({id_}) is damaged: its {column} is invalid. Close the studio "
            "and run `python launch.py doctor`, which repairs it or sets it aside."
        )


class StoreLocked(StoreError):
    """Another studio already serves this home."""
