"""What stands in a prompt: alternatives, emphasis, styles. Text in, text out."""
