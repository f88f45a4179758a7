"""Real services for the tests: found or started, and stopped afterwards.

Each service has a module; `ServiceSet` holds one of each; `plugin` is for pytest (fixtures, one start
per run); `python -m tests.engines` is for people. Linux only: processes are supervised by pidfd,
prctl and /proc.

    Service (service.py)        start stop kill pause resume restart close, version, environment()
      ├── Postgres              + create_database, drop_database, database
      ├── Valkey                + client
      ├── Kafka                 + admin, create_topic, delete_topic, durable
      └── ZooKeeper             + ask
    Envoy                       path, version
    Process (process.py)        the process of a private service

    ServiceError                the message says what was tried
      ├── NotOursError               kill or pause of a service that was given by its address
      └── NoJarsError                Kafka's or ZooKeeper's jars could not be fetched
"""

from __future__ import annotations

from .envoy import Envoy
from .kafka import Kafka
from .postgres import Postgres
from .process import Process, ServiceError
from .service import NotOursError, Service
from .service_set import NAMES, ServiceSet
from .valkey import Valkey
from .zookeeper import ZooKeeper

__all__ = [
    "NAMES",
    "Envoy",
    "Kafka",
    "NotOursError",
    "Postgres",
    "Process",
    "Service",
    "ServiceError",
    "ServiceSet",
    "Valkey",
    "ZooKeeper",
]
