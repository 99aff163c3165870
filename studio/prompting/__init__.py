"""The syntax of prompts: alternatives, emphasis, styles. Text in, text out."""
