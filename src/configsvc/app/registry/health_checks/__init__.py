"""Health checks of instances: when they run, and what their results do."""
