"""The main program as a service: its configuration, its files, its processes, and what it says of itself."""
