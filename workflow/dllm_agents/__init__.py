"""Diffusion language models as agent backbones: three papers as one reproducible workflow."""

__version__ = "0.1.0"
