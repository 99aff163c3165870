"""What can go wrong with the store. Every message is a sentence the artist can act on."""


class StoreError(Exception):
    """The store could not do what was asked, and nothing of it was done."""


class StoreTooNew(StoreError):
    """The store was written by a newer version of the studio."""


class StoreFull(StoreError):
    """The disk has no room left."""


class StoreDamaged(StoreError):
    """What was read is not what was written."""


class StoreLocked(StoreError):
    """Another studio already serves this home."""
