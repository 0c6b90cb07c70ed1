"""A world in one thread: the real cores (array, disk, evidence) with time, randomness and trouble as arguments.

The same seed gives the same run, to the last byte. What is simulated is only what the shell does otherwise: sockets,
clocks and threads. Nothing here is imported by the product.
"""
