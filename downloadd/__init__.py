"""All these files as one download."""

__version__ = "0.1.0"
