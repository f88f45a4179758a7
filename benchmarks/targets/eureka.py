"""Eureka's server, whose clients speak HTTP."""

import json

import httpx

from benchmarks.load import Request, Target
from benchmarks.targets.configsvc import INSTANCES, LEASE_SECONDS, SERVICE

_JSON = {"content-type": "application/json", "accept": "application/json"}
_CLASS = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo"
# So many new instances are registered in turn; a faster server registers some of them again.
REGISTERED = 20_000


def register(address: str) -> Target:
    """A new instance with each request."""
    requests = [_registration("REGISTERED", f"registered-{number}") for number in range(REGISTERED)]
    return Target(address, requests, http=True)


def heartbeat(address: str) -> Target:
    """The instances of one service, in turn."""
    paths = [f"/eureka/apps/{SERVICE.upper()}/instance-{number}" for number in range(INSTANCES)]
    return Target(address, [Request(path, method="PUT", headers=_JSON) for path in paths], http=True)


def discover(address: str) -> Target:
    """The ten instances of one service."""
    return Target(address, [Request(f"/eureka/apps/{SERVICE.upper()}", method="GET", headers=_JSON)], http=True)


def others(address: str, services: int, instances: int) -> Target:
    """Registrations of so many instances of other services, in turn."""
    requests = [_registration(f"SVC-{number % services}", f"other-{number}") for number in range(instances)]
    return Target(address, requests, http=True)


def fill(address: str) -> None:
    """Registers the service's instances."""
    with httpx.Client(base_url=f"http://{address}", headers=_JSON, timeout=30) as client:
        for number in range(INSTANCES):
            request = _registration(SERVICE.upper(), f"instance-{number}")
            client.post(request.path, content=request.body).raise_for_status()
        found = client.get(f"/eureka/apps/{SERVICE.upper()}").raise_for_status().json()
    assert len(found["application"]["instance"]) == INSTANCES, "Eureka finds all instances"


def _registration(service: str, instance_id: str) -> Request:
    instance = {
        **{"instanceId": instance_id, "hostName": "127.0.0.1", "app": service, "ipAddr": "127.0.0.1", "status": "UP"},
        "port": {"$": 9, "@enabled": "true"},
        "dataCenterInfo": {"@class": _CLASS, "name": "MyOwn"},
        "leaseInfo": {"durationInSecs": LEASE_SECONDS},
    }
    return Request(f"/eureka/apps/{service}", json.dumps({"instance": instance}).encode(), "POST", _JSON)
