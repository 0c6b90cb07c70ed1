"""What lies on this machine: the configuration, the files beside it, and the processes that they name."""
