"""Tests of the configuration, the files and the processes."""
