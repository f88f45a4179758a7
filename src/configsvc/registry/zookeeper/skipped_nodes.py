"""The nodes that can't be read. Others may write anything into ZooKeeper: such nodes are left out, counted, and logged once."""

import logging
from collections.abc import Container

from configsvc_client.evaluation.field_rules import name_problem

from configsvc.domain.fields import SERVICE_NAME_CHARACTERS
from configsvc.registry import curator
from configsvc.registry.port import Node

logger = logging.getLogger(__name__)

# How many of them `/health` names. The log names all of them.
NAMED = 3
SHOWN_CHARACTERS = 100


class SkippedNodes:
    """The reasons, by service and instance id. An empty instance id means the service itself."""

    def __init__(self) -> None:
        self._reasons: dict[tuple[str, str], str] = {}

    @property
    def note(self) -> str:
        """How many nodes are left out, and some of them; empty if there are none."""
        if not self._reasons:
            return ""
        named = [
            f"'{_short('/'.join(filter(None, key)))}' ({why})" for key, why in sorted(self._reasons.items())[:NAMED]
        ]
        more = ", …" if len(self._reasons) > NAMED else ""
        count = len(self._reasons)
        nodes = "1 node can't be read, and is" if count == 1 else f"{count} nodes can't be read, and are"
        return f"{nodes} left out: {', '.join(named)}{more}"

    def add(self, service: str, instance_id: str, reason: str) -> None:
        """Leaves a node out. It is logged if it is new, or has another reason than before."""
        reason = _short(reason)
        if self._reasons.get((service, instance_id)) != reason:
            path = _short("/".join(filter(None, (service, instance_id))))
            logger.warning("'%s' in ZooKeeper is left out: %s", path, reason)
        self._reasons[service, instance_id] = reason

    def discard(self, service: str, instance_id: str = "") -> None:
        """The node can be read again."""
        self._reasons.pop((service, instance_id), None)

    def retain_services(self, names: Container[str]) -> None:
        """Forgets the nodes of services that are gone."""
        for service, instance_id in tuple(self._reasons):
            if service not in names:
                del self._reasons[service, instance_id]

    def retain_nodes(self, service: str, names: Container[str]) -> None:
        """Forgets the nodes of a service that are gone."""
        for key in [key for key in self._reasons if key[0] == service and key[1] and key[1] not in names]:
            del self._reasons[key]

    def is_valid_service(self, service: str) -> bool:
        """Whether callers can name this service. If not, it is left out."""
        if not name_problem(service, SERVICE_NAME_CHARACTERS):
            return True
        self.add(service, "", "no service can have this name")
        return False

    def decode(self, service: str, instance_id: str, data: bytes) -> Node | None:
        """The node with this data; None if it is left out."""
        try:
            node = curator.from_json(service, instance_id, data)
        except ValueError as error:
            self.add(service, instance_id, str(error))
            return None
        self.discard(service, instance_id)
        return node


def _short(text: str) -> str:
    """A text from outside, for a log line and for `/health`."""
    plain = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return plain if len(plain) <= SHOWN_CHARACTERS else f"{plain[:SHOWN_CHARACTERS]}…"
