class WorkerError(Exception):
    """Something that cannot be done; the message is a sentence for the artist."""


class Cancelled(Exception):
    """What was begun is to be left: the artist does not want it any more, or the worker ends."""
