"""AMD SEV-SNP: attestation reports, the certificates of the processors that sign them, and their verifier."""
