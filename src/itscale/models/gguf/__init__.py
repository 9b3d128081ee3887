"""Models in GGUF files, run by llama.cpp in this process: `gguf:PATH`."""

from itscale.models.gguf.model import GGUFModel

__all__ = ["GGUFModel"]
