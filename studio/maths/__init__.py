"""The maths: tensors in, tensors out; no models, no files."""
