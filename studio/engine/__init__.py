"""Drawing and learning: what needs torch and a denoiser, and knows no rows and no pages."""
