"""The command line: what a person or a script touches. It decides nothing that the array's code decides."""
