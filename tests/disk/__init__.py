"""Tests of the disk program: its state machine, its wire format, its server, and the list of what it trusts."""
