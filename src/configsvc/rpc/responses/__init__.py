"""What answers are made of: metadata, and as many items as fit into one message."""
