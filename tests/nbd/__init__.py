"""Tests of the NBD server."""
