"""What targets are given to do. `table` names every piece; the other modules do them."""
