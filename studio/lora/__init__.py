"""LoRA files: written for other tools, read back, blended, resized, merged."""
