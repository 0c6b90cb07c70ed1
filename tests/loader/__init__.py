"""Tests of the loader: what it believes, what it refuses, and the main program's whole life."""
