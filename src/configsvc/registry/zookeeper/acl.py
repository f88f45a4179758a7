"""Paths that were made before there was a credential, and are open to everyone still.

Whoever may create below `BASE_PATH` can show instances, and below the replicas' path replicas that do not exist. So, if
this service has a credential, each path that it uses and that grants more to everyone than it would grant itself gets its
own access list; if it may not do that, people are told what to do.
"""

import logging
from typing import Any

from kazoo.exceptions import NoNodeError
from kazoo.security import CREATOR_ALL_ACL, make_acl

from configsvc.errors import Unavailable
from configsvc.registry.zookeeper.session import ZookeeperSession

logger = logging.getLogger(__name__)

_LETTERS = {"r": "read", "w": "write", "c": "create", "d": "delete", "a": "admin"}
# Bits of ACL.perms, in the order of the letters (ZooDefs.Perms).
_BITS = {"r": 1, "w": 2, "c": 4, "d": 8, "a": 16}


def access_list(others: str) -> list[Any]:
    """All for whoever has the session's credential, and for everyone else what these letters of `cdrwa` say."""
    granted = {_LETTERS[letter]: True for letter in others}
    return [*CREATOR_ALL_ACL, *([make_acl("world", "anyone", **granted)] if granted else [])]


class OpenPaths:
    """Closes them; `still_open` names those that it may not close, with what they grant to everyone."""

    def __init__(self, session: ZookeeperSession, others: str | None) -> None:
        """`others` None: there is no credential, and nothing to close."""
        self._session = session
        self._others = others
        self._looked_at: set[str] = set()
        self.still_open: dict[str, str] = {}

    def forget(self) -> None:
        """The next use of each path looks anew: others may have changed it."""
        self._looked_at.clear()

    async def close(self, path: str) -> None:
        """Looks at a path once for each connection. A path that grants nothing more is left as it is."""
        if self._others is None or path in self._looked_at:
            return
        try:
            granted, version = await self._session.granted_to_everyone(path)
        except NoNodeError:
            return
        except Unavailable as error:
            if error.reason != "REGISTRY_FORBIDDEN":
                raise
            # Only who may read it, or administer it, sees the list: it is not open to everyone.
            granted, version = 0, 0
        letters = "".join(letter for letter, bit in _BITS.items() if granted & bit)
        self._looked_at.add(path)
        if set(letters) <= set(self._others):
            self.still_open.pop(path, None)
            return
        try:
            await self._session.restrict(path, access_list(self._others), version)
        except Unavailable as error:
            if error.reason != "REGISTRY_FORBIDDEN":
                self._looked_at.discard(path)
                raise
            if self.still_open.get(path) != letters:
                logger.warning("everyone may do '%s' to %s; %s", letters, path, self._to_do(path))
            self.still_open[path] = letters
        else:
            logger.info("%s was open to everyone ('%s'), and has the access list of ZOOKEEPER_AUTH now", path, letters)
            self.still_open.pop(path, None)

    @property
    def note(self) -> str:
        """For people; empty if there are none."""
        return "; ".join(
            f"{path} is open to everyone ('{letters}'), and ZOOKEEPER_AUTH may not change that: {self._to_do(path)}"
            for path, letters in sorted(self.still_open.items())
        )

    def _to_do(self, path: str) -> str:
        world = f",world:anyone:{self._others}" if self._others else ""
        return f"who has the right 'a' there runs: setAcl {path} digest:USER:HASH:cdrwa{world}"
