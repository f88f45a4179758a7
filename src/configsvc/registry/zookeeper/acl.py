"""Access lists, and the repair of paths that were created before there was a credential: they are open to everyone.

Everyone who may create nodes below `BASE_PATH` can show instances, and below the replicas' path replicas that do not exist.
So if this service has a credential, each path that it uses and that grants more to everyone than it would itself gets the
service's access list. If the service may not change the list, `note` says what to do.
"""

import logging
from typing import Any

from kazoo.exceptions import NoNodeError
from kazoo.security import CREATOR_ALL_ACL, make_acl

from configsvc.errors import Unavailable
from configsvc.registry.zookeeper.session import ZookeeperSession

logger = logging.getLogger(__name__)

_RIGHTS = {"r": "read", "w": "write", "c": "create", "d": "delete", "a": "admin"}
# The bits of ACL.perms for the letters (ZooDefs.Perms).
_BITS = {"r": 1, "w": 2, "c": 4, "d": 8, "a": 16}


def access_list(others: str) -> list[Any]:
    """All rights for the session's credential, and for everyone else the rights of these letters of `cdrwa`."""
    granted = {_RIGHTS[letter]: True for letter in others}
    return [*CREATOR_ALL_ACL, *([make_acl("world", "anyone", **granted)] if granted else [])]


class AclRepair:
    """Restricts paths. `still_open`: the paths that it may not restrict, with the letters that everyone is granted."""

    def __init__(self, session: ZookeeperSession, others: str | None) -> None:
        """`others` None: there is no credential, and nothing to restrict."""
        self._session = session
        self._others = others
        self._checked: set[str] = set()
        self.still_open: dict[str, str] = {}

    def reset(self) -> None:
        """Every path is checked again at its next use: others may have changed it."""
        self._checked.clear()

    async def restrict(self, path: str) -> None:
        """Restricts a path, once for each connection. A path that grants nothing more is left as it is."""
        if self._others is None or path in self._checked:
            return
        try:
            granted, version = await self._session.granted_to_everyone(path)
        except NoNodeError:
            return
        except Unavailable as error:
            if error.reason != "REGISTRY_FORBIDDEN":
                raise
            # Only a client that may read or administer the path sees its list. So it is not open to everyone.
            granted, version = 0, 0
        letters = "".join(letter for letter, bit in _BITS.items() if granted & bit)
        self._checked.add(path)
        if set(letters) <= set(self._others):
            self.still_open.pop(path, None)
            return
        try:
            await self._session.set_acl(path, access_list(self._others), version)
        except Unavailable as error:
            if error.reason != "REGISTRY_FORBIDDEN":
                self._checked.discard(path)
                raise
            if self.still_open.get(path) != letters:
                logger.warning("everyone may do '%s' to %s; %s", letters, path, self._remedy(path))
            self.still_open[path] = letters
        else:
            logger.info("%s was open to everyone ('%s'), and has the access list of ZOOKEEPER_AUTH now", path, letters)
            self.still_open.pop(path, None)

    @property
    def note(self) -> str:
        """The open paths, and what to do, for people; empty if there are none."""
        return "; ".join(
            f"{path} is open to everyone ('{letters}'), and ZOOKEEPER_AUTH may not change that: {self._remedy(path)}"
            for path, letters in sorted(self.still_open.items())
        )

    def _remedy(self, path: str) -> str:
        world = f",world:anyone:{self._others}" if self._others else ""
        return f"who has the right 'a' there runs: setAcl {path} digest:USER:HASH:cdrwa{world}"
