"""Ends another process's ZooKeeper session: connects with its session id and closes it.

A client that has a session's id and password can take the session over and close it. The id is on every ephemeral node
of the session. The password depends only on the id (`generatePasswd` in ZooKeeperServer.java): sixteen bytes of
`java.util.Random`, seeded with the id and a constant. It protects against mistakes, not against this.
"""

from collections.abc import Iterator

from kazoo.client import KazooClient

SUPER_SECRET = 0xB3415C00
PASSWORD_BYTES = 16
CONNECT_SECONDS = 30

# Constants of java.util.Random, from its documentation.
_MULTIPLIER, _ADDEND, _MASK = 0x5DEECE66D, 0xB, (1 << 48) - 1


def expire(hosts: str, path: str) -> None:
    """Ends the session that holds the ephemeral node at `path`; returns when the node is gone."""
    watching = KazooClient(hosts)
    watching.start(CONNECT_SECONDS)
    try:
        _, stat = watching.get(path)
        session = stat.ephemeralOwner
        assert session, f"{path} is not an ephemeral node"
        client = KazooClient(hosts, client_id=(session, _password(session)))
        client.start(CONNECT_SECONDS)
        assert client.client_id[0] == session, "the server did not accept the password"
        client.stop()
        client.close()
        now = watching.exists(path)
        assert now is None or now.ephemeralOwner != session
    finally:
        watching.stop()
        watching.close()


def session_of(zookeeper: KazooClient, path: str) -> int:
    """The session that holds the ephemeral node at `path`; 0 if there is none."""
    stat = zookeeper.exists(path)
    return int(stat.ephemeralOwner) if stat else 0


def _password(session: int) -> bytes:
    made = b"".join(_ints((session ^ SUPER_SECRET) & _MASK))
    return made[:PASSWORD_BYTES]


def _ints(seed: int) -> Iterator[bytes]:
    """The ints of `Random.nextBytes`, each with its low byte first."""
    state = (seed ^ _MULTIPLIER) & _MASK
    for _ in range(PASSWORD_BYTES // 4):
        state = (state * _MULTIPLIER + _ADDEND) & _MASK
        yield (state >> 16).to_bytes(4, "little")
