"""Perdure: a persistent disk that no one can roll back, made of machines that forget."""

__version__ = "0.1.0"
RELEASE = 2
"""Rises with every release that an older one must not follow: an array that a newer one has mounted refuses it."""
