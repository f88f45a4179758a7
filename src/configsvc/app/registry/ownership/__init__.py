"""Which replica owns an instance, and the nodes that it keeps in the registry."""
