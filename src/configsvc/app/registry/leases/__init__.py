"""Leases: how they are renewed, measured and ended."""
