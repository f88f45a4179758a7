"""What a request means beside its message: metadata, preconditions, and the fields that it writes."""
