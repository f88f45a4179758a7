"""Which fields an update writes (AIP-134). All other fields stay as they are.

An `update_mask` names them. Without a mask they are the fields that are present. Over gRPC, a field is present if it is set,
and a list if it has items. Over REST, a field is present if the body names it, whatever its value: the gateway reads the
body (deploy/lua) and says in the metadata which fields it names.
"""

from collections.abc import Collection, Sequence
from typing import Any, Literal, Protocol

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from configsvc.errors import InvalidInput
from configsvc.rpc.context import CallContext
from configsvc.rpc.requests import request_metadata

# The top-level fields that a REST body names. The gateway sets this header, and removes a caller's own.
BODY_FIELDS_HEADER = "x-configsvc-members"
# The empty lists in the operations of a batch over REST, as INDEX:FIELD. Likewise set by the gateway alone.
EMPTY_LISTS_HEADER = "x-configsvc-emptied"
ALL_FIELDS = "*"


class UpdateRequest(Protocol):
    """A request that writes the fields that it names."""

    @property
    def update_mask(self) -> FieldMask: ...

    def HasField(self, field_name: Literal["update_mask"], /) -> bool: ...  # noqa: N802

    def ListFields(self) -> Sequence[tuple[FieldDescriptor, Any]]: ...  # noqa: N802


def fields_to_write(context: CallContext, request: UpdateRequest, writable: Sequence[str]) -> frozenset[str]:
    """The fields that an update writes.

    Raises:
        InvalidInput: the update writes no field, or the mask names a field that is not in `writable`.
    """
    if request.HasField("update_mask"):
        return _not_empty(_masked(request, writable), writable)
    metadata = request_metadata.as_dict(context)
    if request_metadata.is_rest(metadata):
        present = metadata.get(BODY_FIELDS_HEADER, "").split(",")
    else:
        present = _set_fields(request)
    return _not_empty(frozenset(present).intersection(writable), writable)


def operation_fields_to_write(
    context: CallContext, index: int, request: UpdateRequest, writable: Sequence[str]
) -> frozenset[str]:
    """`fields_to_write` of an operation of a batch.

    Its own fields show what is present over REST, too, except for empty lists. The gateway names those.
    """
    if request.HasField("update_mask"):
        return _not_empty(_masked(request, writable), writable)
    listed = request_metadata.as_dict(context).get(EMPTY_LISTS_HEADER, "").split(",")
    pairs = [entry.partition(":") for entry in listed]
    empty_lists = [field for operation, _, field in pairs if operation == str(index)]
    present = frozenset([*_set_fields(request), *empty_lists])
    return _not_empty(present.intersection(writable), writable)


def writable_fields(request: type[Message], resource: type[Message], *, identity: Collection[str]) -> tuple[str, ...]:
    """The fields of a resource that an update can write: those that its request has too, without identity and etag."""
    in_request = {field.name for field in request.DESCRIPTOR.fields}
    return tuple(
        field.name
        for field in resource.DESCRIPTOR.fields
        if field.name in in_request and field.name != "etag" and field.name not in identity
    )


def _masked(request: UpdateRequest, writable: Sequence[str]) -> frozenset[str]:
    paths = list(request.update_mask.paths)
    if not paths:
        raise InvalidInput.of("update_mask", "must not be empty: leave it out, name fields, or give * for all")
    if paths == [ALL_FIELDS]:
        return frozenset(writable)
    for path in paths:
        if path not in writable:
            raise InvalidInput.of(
                "update_mask",
                f"must name whole fields, of {', '.join(writable)}, or be * alone; it names '{path[:64]}'",
            )
    return frozenset(paths)


def _set_fields(request: UpdateRequest) -> list[str]:
    return [field.name for field, _ in request.ListFields()]


def _not_empty(fields: frozenset[str], writable: Sequence[str]) -> frozenset[str]:
    if not fields:
        # An update that names no field is more often a mistake than a wish for a new version with the same content.
        first, *others = writable
        raise InvalidInput.of(first, f"must be given, or another of {', '.join(others)}: the update names no field")
    return fields
