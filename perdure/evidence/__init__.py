"""Hardware evidence: from a document's bytes to a verified statement, or an error that says why not."""
