class WorkerError(Exception):
    """Work that cannot be done; the message is a sentence for the artist."""
