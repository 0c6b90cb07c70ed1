"""Programs that use arrays, each in a folder of its own."""
