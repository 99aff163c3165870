"""The command line: one module per command, imported by its dotted name when it is called."""
