"""Watches of every kind of resource."""
