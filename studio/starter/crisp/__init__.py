"""The recipe of the next starter model: 256 px, six styles, eleven grounds.

    python -m studio.starter.crisp.pictures               drawings of open emoji sets
    python -m studio.starter.crisp.train unpack           what was learned before, from assets/crisp
    python -m studio.starter.crisp.train diffusion        U-Net with text encoder
    python -m studio.starter.crisp.train samples          what the U-Net makes of prompts
    python -m studio.starter.crisp.train decoder          of small pictures
    python -m studio.starter.crisp.train autoencoder
    python -m studio.starter.crisp.train recogniser
    python -m studio.starter.crisp.train write            the diffusers folder
    python -m studio.starter.crisp.evaluate               its figures, beside another model's
    python -m studio.starter.crisp.train keep             into assets/crisp

All work in `build/starter/crisp`. Nothing else uses it yet: the pictures are not good enough.
"""
