class WorkerError(Exception):
    """Something that cannot be done; the message is a sentence for the artist."""
