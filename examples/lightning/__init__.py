"""A Lightning node's state under a host that keeps yesterday's copy: `python -m examples.lightning`."""
