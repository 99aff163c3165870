"""LoRA files: reading, fusing into a model, blending, resizing, merging and writing."""
