"""WatchStreams of every kind of resource."""
