"""Picture files, and the settings that are written in them."""
