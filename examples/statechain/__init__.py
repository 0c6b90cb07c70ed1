"""An example statechain signer on Perdure's key store. See README.md for what it is not."""
