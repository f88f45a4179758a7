"""Whether the log is still the one that was seen, and where its history comes from."""
