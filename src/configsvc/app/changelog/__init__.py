"""The change log: reading it, writing to it, keeping it bounded, and publishing it."""
