"""ChangeService: check, call, convert."""

from configsvc_client.v1 import change_pb2, change_pb2_grpc

from configsvc.app.batches import Batches
from configsvc.app.changelog.audit import AuditLog
from configsvc.clock import Clock
from configsvc.domain.pages import PageRequest
from configsvc.rpc import convert
from configsvc.rpc.context import CallContext
from configsvc.rpc.convert.message_budget import fit_page
from configsvc.rpc.offload import offload_items, offload_request
from configsvc.rpc.requests import request_metadata
from configsvc.rpc.servicers.change_operations import OperationPlanner


class ChangeServicer(change_pb2_grpc.ChangeServiceServicer):
    """proto/configsvc/v1/change.proto says what each method does."""

    def __init__(self, audit_log: AuditLog, batches: Batches, planner: OperationPlanner, clock: Clock) -> None:
        self._audit_log = audit_log
        self._batches = batches
        self._planner = planner
        self._clock = clock

    async def ApplyChanges(
        self, request: change_pb2.ApplyChangesRequest, context: CallContext
    ) -> change_pb2.ApplyChangesResponse:
        author = request_metadata.author(context, request, self._clock)
        operations = await offload_request(request, lambda: self._planner.plan(context, request))
        applied = await self._batches.apply(operations, author, validate_only=request.validate_only)
        results = map(convert.applied, applied.operations)
        return change_pb2.ApplyChangesResponse(results=results, revision=applied.revision)

    async def ListChanges(
        self, request: change_pb2.ListChangesRequest, context: CallContext
    ) -> change_pb2.ListChangesResponse:
        wanted = PageRequest(request.page_size, request.page_token)
        found = await self._audit_log.search(convert.audit_filter(request), wanted)
        changes, token = await offload_items(found.page.items, lambda: fit_page(found.page, convert.audit))
        return change_pb2.ListChangesResponse(
            changes=changes,
            next_page_token=token,
            revision=found.page.revision,
            compacted_revision=found.compacted_revision,
        )
