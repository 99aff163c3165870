"""The recipe of the next starter model: 256 px, seven styles, eleven grounds.

    python -m studio.starter.crisp.pictures               drawings of open emoji sets
    python -m studio.starter.crisp.train diffusion        U-Net with text encoder
    python -m studio.starter.crisp.train samples          what the U-Net makes of prompts
    python -m studio.starter.crisp.train autoencoder
    python -m studio.starter.crisp.train recogniser
    python -m studio.starter.crisp.train write            the diffusers folder

All work in `build/starter/crisp`. No weights of it are shipped yet.
"""
