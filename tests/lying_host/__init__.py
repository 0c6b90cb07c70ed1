"""The lying host: real processes, every link to a disk in the attacker's hands, one test by name for each attack."""
