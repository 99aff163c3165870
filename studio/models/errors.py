"""What can be wrong with a model, said once for all of `studio.models`."""


class ModelError(Exception):
    """A model or adapter that cannot be used; the message is a sentence for the artist."""
