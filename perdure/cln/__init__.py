"""A Core Lightning node's database on an array: each write is proved to be there before the node commits it.

`replica` is the database as the array has it, `plugin` the conversation with lightningd. Neither imports `pyln-client`:
a package that it needs puts its own files in the place of `coincurve`'s, which the disk program stands on.
"""
