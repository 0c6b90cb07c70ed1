"""Tests of the main program as a service."""
