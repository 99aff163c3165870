"""What can end a round."""


class TrainingFailed(Exception):
    """A round that cannot go on; the message is a sentence and the adapter must not be used."""
