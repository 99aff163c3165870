"""Sampling and training: torch and a denoiser, without the store and the pages."""
