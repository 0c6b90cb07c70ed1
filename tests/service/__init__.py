"""Tests of the main program's configuration, files, processes and control socket."""
