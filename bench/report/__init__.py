"""What is shown: the machine, a table for the terminal, the page and its plots, all from one JSON document."""
