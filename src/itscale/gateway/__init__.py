"""The OpenAI-compatible gateway: point any client at it and answers get better. `itscale serve`."""
