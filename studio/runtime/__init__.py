"""Running of the processes: supervisor, logs, support report."""
