"""The recipe that made `assets/starter` and `assets/recogniser`, and a larger one.

    python -m studio.starter.data       drawings from five open emoji sets
    python -m studio.starter.train      autoencoder, recogniser, U-Net with text encoder, folder
    python -m studio.starter.evaluate   figures, contact sheets

All work in `build/starter/small`, or with `--recipe full` in `build/starter/full`: drawings and
checkpoints, and what comes of them, `model` and `recogniser`. What is shipped is copied from there.
Every stage is seeded, keeps checkpoints and goes on where it was stopped.
"""
