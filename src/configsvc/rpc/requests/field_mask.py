"""Which fields of an update the caller means to write (AIP-134). All others stay as they are.

An `update_mask` says it exactly. Without one it is what is present: over REST what the body names, whatever its value,
as the gateway has read it (deploy/lua); over gRPC what is set, and a list if it has items.
"""

from collections.abc import Collection, Sequence
from typing import Any

from configsvc.errors import InvalidInput
from configsvc.rpc.context import CallContext
from configsvc.rpc.requests import request_metadata

# The top-level members of a REST body, by the gateway. It removes the header from what comes from outside.
MEMBERS = "x-configsvc-members"
# The lists that operations of a batch empty, as INDEX:FIELD; likewise.
EMPTIED = "x-configsvc-emptied"
WHOLE = "*"


def fields_to_write(context: CallContext, request: Any, writable: Sequence[str]) -> frozenset[str]:
    """The fields to write, of those that can be written.

    Raises:
        InvalidInput: there are none, or the mask names something else.
    """
    found = _masked(request, writable) if request.HasField("update_mask") else _present(context, request, writable)
    return _some(found, writable)


def operation_fields_to_write(
    context: CallContext, index: int, request: Any, writable: Sequence[str]
) -> frozenset[str]:
    """`fields_to_write` of an operation of a batch. Its fields show what is present, but for empty lists, of which the gateway
    tells over REST.
    """
    if request.HasField("update_mask"):
        return _some(_masked(request, writable), writable)
    emptied = request_metadata.as_dict(context).get(EMPTIED, "").split(",")
    of_this = [field for number, _, field in (one.partition(":") for one in emptied) if number == str(index)]
    present = [field.name for field, _ in request.ListFields()]
    return _some(frozenset([*present, *of_this]).intersection(writable), writable)


def _some(found: frozenset[str], writable: Sequence[str]) -> frozenset[str]:
    if not found:
        # A write that names nothing is a mistake more often than a wish for a new version.
        first, *others = writable
        raise InvalidInput.of(
            first, f"must be given, or another of {', '.join(others)}: nothing is named to be written"
        )
    return found


def writable_fields(request: Any, resource: Any, *, identity: Collection[str]) -> tuple[str, ...]:
    """The fields of an update's message type that are the resource's, less its identity and its etag."""
    own = {field.name for field in request.DESCRIPTOR.fields}
    return tuple(
        field.name
        for field in resource.DESCRIPTOR.fields
        if field.name in own and field.name != "etag" and field.name not in identity
    )


def _masked(request: Any, writable: Sequence[str]) -> frozenset[str]:
    paths = list(request.update_mask.paths)
    if not paths:
        raise InvalidInput.of("update_mask", "must not be empty: leave it out, name fields, or give * for all")
    if paths == [WHOLE]:
        return frozenset(writable)
    for path in paths:
        if path not in writable:
            raise InvalidInput.of(
                "update_mask",
                f"must name whole fields, of {', '.join(writable)}, or be * alone; it names '{path[:64]}'",
            )
    return frozenset(paths)


def _present(context: CallContext, request: Any, writable: Sequence[str]) -> frozenset[str]:
    metadata = request_metadata.as_dict(context)
    if request_metadata.is_rest(metadata):
        named = metadata.get(MEMBERS, "").split(",")
    else:
        named = [field.name for field, _ in request.ListFields()]
    return frozenset(named).intersection(writable)
