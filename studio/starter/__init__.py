"""The recipe that made `assets/starter` and `assets/recogniser`.

    python -m studio.starter.data       drawings from five open emoji sets   ->
    build/starter/drawings.safetensors
    python -m studio.starter.train      autoencoder, then U-Net and text encoder -> assets/starter
    python -m studio.starter.evaluate   recogniser, figures, contact sheet   -> assets/recogniser,
    model card

Every stage is seeded, keeps checkpoints in `build/starter` and goes on where it was stopped.
"""
