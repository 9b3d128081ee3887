"""The one place the version stands; the build and the changelog test read it from here."""

__all__ = ["__version__"]

__version__ = "0.1.0"
