"""The demo's parts: the nodes' program, the places where their state is, what a host tries, and the report."""
