"""The recipe that made `assets/starter` and `assets/recogniser`.

    python -m studio.starter.pictures   drawings, from openly licensed emoji sets
    python -m studio.starter.train      its stages, one after the other
    python -m studio.starter.evaluate   figures, contact sheets

All work in `build/starter`: drawings, checkpoints, and what comes of them, `model` and
`recogniser`. What is shipped is copied from there. Every stage is seeded, keeps checkpoints and
goes on where it was stopped. `train unpack` lets the stages begin with what is shipped.
"""
