"""The served array from outside, with programs that others wrote for testing (docs/conformance.md)."""
