"""The key from AWS KMS, for a loader in a Nitro enclave: what is asked, and how the answer is opened. Core."""
