"""Tests of the command line: real processes, real sockets, real disks on the simulated platform."""
