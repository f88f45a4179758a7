"""Fixtures that the tests of faults share with those of replicas: settings and a ZooKeeper client of a module's own."""

from tests.replicas.conftest import settings, zookeeper

__all__ = ["settings", "zookeeper"]
