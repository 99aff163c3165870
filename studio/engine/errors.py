"""Errors that end a round."""


class TrainingFailed(Exception):
    """The round cannot go on and its adapter must not be used; the message is a sentence."""
