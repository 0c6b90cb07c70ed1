"""The shell and the Python API, with real processes for disks."""
