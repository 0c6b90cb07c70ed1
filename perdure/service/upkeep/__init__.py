"""What mends the array while it serves: repairs, spares and scrubs, erasing, and asking every disk anew."""
