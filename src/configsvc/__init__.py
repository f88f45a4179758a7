"""A configuration service: values with history, feature flags, and a service registry, under one revision."""

__version__ = "0.1.0"
