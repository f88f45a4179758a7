"""The errors of the service, in the words of the domain. None of them knows gRPC: `rpc/status.py` maps them to codes.

ServiceError
├── InvalidInput          the request can never succeed; names each invalid field
├── NotFound              the resource does not exist
├── AlreadyExists         the resource exists
├── StaleEtag             the resource has changed since it was read; nothing was written
├── FailedPrecondition    the request is valid, but the state of the system does not allow it
├── RevisionOutOfRange    the revision was compacted, or has not happened yet
├── ResourceExhausted     a limit was reached; try with less, or later
├── DeadlineExceeded      not done in time; it may have happened all the same
├── DataLoss              the stored data is damaged, and is not served
└── Unavailable           a backend can't be reached; the same request may succeed later
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar

from configsvc_client.evaluation import Violation


@dataclass(eq=False)
class ServiceError(Exception):
    """The root of all errors that a caller may see.

    `reason` is a constant in UPPER_SNAKE for programs, `message` a text for people. `metadata` has the details that a
    program needs to react.
    """

    default_reason: ClassVar[str] = "INTERNAL"

    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reason = self.reason or self.default_reason
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class InvalidInput(ServiceError):
    """The request can never succeed."""

    default_reason = "INVALID_INPUT"

    def __init__(self, violations: Iterable[Violation], reason: str = "") -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations), reason)

    @classmethod
    def of(cls, field: str, description: str, reason: str = "") -> "InvalidInput":
        """An error with a violation of one field."""
        return cls((Violation(field, description),), reason)


class NotFound(ServiceError):
    """The resource does not exist."""

    default_reason = "NOT_FOUND"


class AlreadyExists(ServiceError):
    """The resource exists."""

    default_reason = "ALREADY_EXISTS"


class StaleEtag(ServiceError):
    """The resource has changed since it was read. Nothing was written; read again, then retry."""

    default_reason = "STALE_ETAG"


class FailedPrecondition(ServiceError):
    """The request is valid, but the state of the system does not allow it now."""

    default_reason = "FAILED_PRECONDITION"


class RevisionOutOfRange(ServiceError):
    """The revision was compacted, or has not happened yet.

    `metadata` has `oldest_revision`, the oldest revision after which a watch can resume, and `current_revision`.
    """

    default_reason = "REVISION_OUT_OF_RANGE"


class ResourceExhausted(ServiceError):
    """A limit was reached."""

    default_reason = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(ServiceError):
    """Not done within the deadline. A write may have happened all the same."""

    default_reason = "DEADLINE_EXCEEDED"


class Unavailable(ServiceError):
    """A backend can't be reached; the same request may succeed after `retry_after`."""

    default_reason = "BACKEND_UNAVAILABLE"

    def __init__(
        self,
        message: str,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: timedelta = timedelta(seconds=1),
    ) -> None:
        super().__init__(message, reason, metadata or {})
        self.retry_after = retry_after


class DataLoss(ServiceError):
    """The stored data is not what was written. It is not served; the database must be restored."""

    default_reason = "STORAGE_DAMAGED"
