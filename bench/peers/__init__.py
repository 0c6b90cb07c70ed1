"""What users would pick instead, and two ceilings of the NBD path, each started for the run and ended with it."""
