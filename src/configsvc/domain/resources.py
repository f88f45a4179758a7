"""The errors about one resource of any kind, and the names by which messages and metadata mention it."""

from configsvc.domain.records import Record, Ref
from configsvc.errors import AlreadyExists, NotFound


def not_found(ref: Ref) -> NotFound:
    """The error for a resource that does not exist."""
    return NotFound(
        f"{ref.kind} '{ref.key}'{location(ref)} does not exist", f"{ref.kind.upper()}_NOT_FOUND", error_metadata(ref)
    )


def already_exists(record: Record) -> AlreadyExists:
    """The error for a resource that exists, but must not."""
    ref = record.ref
    return AlreadyExists(
        f"{ref.kind} '{ref.key}'{location(ref)} exists, in version {record.version}",
        f"{ref.kind.upper()}_ALREADY_EXISTS",
        {**error_metadata(ref), "etag": record.etag},
    )


def location(ref: Ref) -> str:
    """The service and the environment that a resource belongs to, for messages."""
    of_service = f" of service '{ref.service}'" if ref.service else ""
    return of_service + (f" in environment '{ref.environment}'" if ref.environment else "")


def error_metadata(ref: Ref) -> dict[str, str]:
    """A resource's identity as the metadata of an error."""
    return {
        name: part
        for name, part in (("environment", ref.environment), ("service_name", ref.service), ("key", ref.key))
        if part
    }
