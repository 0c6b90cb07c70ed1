"""Longer variants of the system tests: `make soak`."""
