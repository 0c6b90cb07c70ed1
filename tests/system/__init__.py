"""The whole stack with real processes and real clients; only the TEE is simulated."""
