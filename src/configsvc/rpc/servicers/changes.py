"""ChangeService: check, call, convert."""

from typing import Any

from configsvc_client.v1 import change_pb2, change_pb2_grpc

from configsvc.app.batches import Batches
from configsvc.app.changelog.audit import AuditLog
from configsvc.clock import Clock
from configsvc.rpc import convert
from configsvc.rpc.offload import offload_items, offload_request
from configsvc.rpc.requests import request_metadata
from configsvc.rpc.responses.message_budget import fit_page
from configsvc.rpc.servicers.change_operations import OperationPlanner


class ChangeServicer(change_pb2_grpc.ChangeServiceServicer):
    """See proto/configsvc/v1/change.proto."""

    def __init__(self, trail: AuditLog, batches: Batches, operations: OperationPlanner, clock: Clock) -> None:
        self._trail = trail
        self._batches = batches
        self._operations = operations
        self._clock = clock

    async def ApplyChanges(self, request: Any, context: Any) -> change_pb2.ApplyChangesResponse:
        """Many writes in one revision."""
        author = request_metadata.author(context, request, self._clock)
        asked = await offload_request(request, lambda: self._operations.asked(context, request))
        applied, revision = await self._batches.apply(asked, author, validate_only=request.validate_only)
        return change_pb2.ApplyChangesResponse(results=map(convert.applied, applied), revision=revision)

    async def ListChanges(self, request: Any, context: Any) -> change_pb2.ListChangesResponse:
        """One page of the audit trail."""
        trail = await self._trail.search(
            environment=request.environment,
            service_name=convert.optional(request, "service_name"),
            kind=request.kind,
            key=request.key,
            actor=request.actor,
            reason=request.reason,
            from_time=convert.time_of(request, "from_time"),
            until_time=convert.time_of(request, "until_time"),
            after_revision=request.after_revision,
            until_revision=request.until_revision,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        changes, token = await offload_items(trail.page.items, lambda: fit_page(trail.page, convert.audit))
        return change_pb2.ListChangesResponse(
            changes=changes,
            next_page_token=token,
            revision=trail.page.revision,
            compacted_revision=trail.compacted_revision,
        )
