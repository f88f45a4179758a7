"""The use cases of feature flags."""
