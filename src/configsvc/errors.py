"""What can go wrong, in the words of the domain. Nothing here knows of gRPC; `rpc/status.py` has the one table.

ServiceError
├── InvalidInput          the request can never succeed as it is; names each field
├── NotFound              the resource is missing
├── AlreadyExists         the resource exists
├── StaleEtag             the resource has changed since it was read; nothing was written
├── FailedPrecondition          the request is good, the state of the system is not
├── RevisionOutOfRange    the revision was compacted away, or has not happened yet
├── ResourceExhausted               a bound was reached; try with less, or later
├── DeadlineExceeded               not done in time; it may have happened all the same
├── DataLoss              what is stored is damaged, and is not served
└── Unavailable           a backend is away; the same request may succeed later
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar

from configsvc_client.evaluation import Violation


@dataclass(eq=False)
class ServiceError(Exception):
    """Root of all errors that a caller may see.

    `reason` is a constant in UPPER_SNAKE that programs can switch on; `message` is for people; `metadata` names
    what the error is about.
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
    """The request can never succeed as it is."""

    default_reason = "INVALID_INPUT"

    def __init__(self, violations: Iterable[Violation], reason: str = "") -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations), reason)

    @classmethod
    def of(cls, field: str, description: str, reason: str = "") -> "InvalidInput":
        """One violation of one field."""
        return cls((Violation(field, description),), reason)


class NotFound(ServiceError):
    """The resource is missing."""

    default_reason = "NOT_FOUND"


class AlreadyExists(ServiceError):
    """The resource exists."""

    default_reason = "ALREADY_EXISTS"


class StaleEtag(ServiceError):
    """The resource has changed since it was read. Nothing was written; read again, then retry."""

    default_reason = "STALE_ETAG"


class FailedPrecondition(ServiceError):
    """The request is good, but the state of the system does not allow it now."""

    default_reason = "FAILED_PRECONDITION"


class RevisionOutOfRange(ServiceError):
    """The revision was compacted away, or has not happened yet.

    `metadata` has `oldest_revision`, the oldest that a watch can resume after, and `current_revision`.
    """

    default_reason = "REVISION_OUT_OF_RANGE"


class ResourceExhausted(ServiceError):
    """A bound was reached."""

    default_reason = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(ServiceError):
    """Not done in the time that the caller, or the default, gave it. A write may have happened all the same."""

    default_reason = "DEADLINE_EXCEEDED"


class Unavailable(ServiceError):
    """A backend is away; the same request may succeed after `retry_after`."""

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
    """What is stored is not what was written. It is not served; the database has to be restored."""

    default_reason = "STORAGE_DAMAGED"
