"""The main program's life, with real loaders in their images."""
