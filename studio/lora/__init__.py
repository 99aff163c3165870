"""LoRA files by anybody: read, put into a model, blended, resized, merged, written."""
