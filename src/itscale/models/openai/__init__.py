"""Models behind an OpenAI-compatible HTTP server: `openai:MODEL@URL`."""

from itscale.models.openai.address import Address
from itscale.models.openai.dialects import Facts
from itscale.models.openai.model import OpenAIModel

__all__ = ["Address", "Facts", "OpenAIModel"]
