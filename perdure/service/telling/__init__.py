"""What the service tells people and programs: events, the log, systemd, the page and its metrics."""
