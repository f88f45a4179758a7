"""Kafka as the bus, and as the topic of the events."""
