"""Unleash's flag server, with flags that mean the same as ours."""

import json
from typing import Any

import httpx

from benchmarks.load import Request, Target
from benchmarks.targets.configsvc import ATTRIBUTES, FLAG, TARGETED, USERS, flag, user

TOKEN = "*:bench.secret"
_HEADERS = {"content-type": "application/json", "authorization": TOKEN}


def flags(count: int) -> dict[str, object]:
    """The file that the server reads: so many flags; 0: the one flag that is evaluated alone."""
    names = [*map(flag, range(count))] or [FLAG]
    return {"version": 2, "features": [_feature(name) for name in names]}


def evaluate(address: str) -> Target:
    """One flag for many users in turn."""
    path = f"/api/frontend/features/{FLAG}"
    contexts = [_context(number) for number in range(USERS)]
    with httpx.Client(base_url=f"http://{address}", headers=_HEADERS) as client:
        sizes = [len(client.post(path, content=context).raise_for_status().content) for context in contexts]
    pairs = zip(contexts, sizes, strict=True)
    return Target(address, [Request(path, body, "POST", _HEADERS, size) for body, size in pairs], http=True)


def evaluate_all(address: str) -> Target:
    """All flags for one user, and the next user in the next call."""
    requests = [Request("/api/frontend/all", _context(number), "POST", _HEADERS) for number in range(10)]
    return Target(address, requests, http=True)


def share_on(address: str) -> float:
    """The share of the users who have the flag, to check that it means the same."""
    path = f"/api/frontend/features/{FLAG}"
    with httpx.Client(base_url=f"http://{address}", headers=_HEADERS) as client:
        answers = [client.post(path, content=_context(number)).raise_for_status().json() for number in range(USERS)]
    return sum(bool(answer["enabled"]) for answer in answers) / USERS


def _context(number: int) -> bytes:
    return json.dumps({"userId": user(number), "properties": ATTRIBUTES}).encode()


def _feature(name: str) -> dict[str, Any]:
    def strategy(share: int, *constraints: Any) -> dict[str, Any]:
        parameters = {"rollout": str(share), "stickiness": "userId", "groupId": name}
        return {"name": "flexibleRollout", "parameters": parameters, "constraints": constraints}

    targeted = {"contextName": "userId", "operator": "IN", "inverted": False, "values": TARGETED}
    return {
        **{"name": name, "type": "release", "enabled": True, "project": "default"},
        "strategies": [strategy(100, targeted), strategy(25)],
    }
