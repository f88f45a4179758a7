"""The parts of the tail: what it reads, and what it has applied."""
