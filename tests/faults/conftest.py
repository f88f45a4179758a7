"""Fixtures shared with tests/replicas: settings and a ZooKeeper client for each module."""

from tests.replicas.conftest import settings, zookeeper

__all__ = ["settings", "zookeeper"]
