"""AWS's attestation documents: of Nitro Enclaves, of the simulated platform in the same form, and of NitroTPMs."""
