"""Perdure: a persistent disk that no one can roll back, made of machines that forget."""

__version__ = "0.1.0"
