"""The loader: fixed, measured; it decides which main program runs and gives it the key."""
