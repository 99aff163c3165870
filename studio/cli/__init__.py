"""The command line: one module a command, found by its dotted name when it is called."""
