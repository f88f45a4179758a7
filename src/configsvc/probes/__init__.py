"""Probes: one health check of one instance. `port` is the law; the other modules are its adapters."""
