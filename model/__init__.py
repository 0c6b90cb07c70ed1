"""An exhaustive search over everything that main programs, hosts and the network can do to a small array.

docs/rules.md says what is searched, what is not, and what came of it. `python -m model` runs it.
"""
