"""The array itself: disks and main program on this machine, in every mode, and what it does besides serving."""
