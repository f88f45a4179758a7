"""The health of this replica as a message."""

from configsvc_client.v1 import health_pb2

from configsvc import __version__
from configsvc.app.health import Health
from configsvc.domain.lineage import HistoryOrigin
from configsvc.rpc.convert.values import timestamp


def health(found: Health, origin: HistoryOrigin, *, applied: int, instance_id: str) -> health_pb2.Health:
    """The state of each component, and how far this replica has read the log."""
    return health_pb2.Health(
        status=found.status,
        components=[
            health_pb2.Component(
                name=component.name,
                backend=component.backend,
                state=component.state,
                latency_ms=round(component.latency_ms, 3),
                detail=component.detail,
                since=timestamp(component.since),
            )
            for component in found.components
        ],
        applied_revision=applied,
        instance_id=instance_id,
        software_version=__version__,
        history=origin.history,
        history_since=origin.since,
        history_reason=origin.reason,
    )
