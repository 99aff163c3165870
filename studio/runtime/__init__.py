"""What keeps the processes going: supervisor, logs, the support report."""
