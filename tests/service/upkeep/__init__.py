"""Tests of repairs and of what else mends the array."""
