"""One servicer for each service."""
