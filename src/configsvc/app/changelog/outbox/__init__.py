"""The outbox: the change log is published to the bus."""
