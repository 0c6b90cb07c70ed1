"""Intel TDX: quotes, the certificates and statements behind them, and their verifier."""
