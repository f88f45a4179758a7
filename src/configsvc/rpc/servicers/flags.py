"""FlagService: check, call, convert."""

from collections.abc import AsyncIterator
from typing import Any

from configsvc_client.evaluation import Context
from configsvc_client.v1 import flag_pb2, flag_pb2_grpc

from configsvc.app.flags.evaluation import EvaluationQuery
from configsvc.app.flags.evaluator import EvaluationRequest, Evaluator
from configsvc.app.flags.store import FlagStore
from configsvc.app.watch.hub import WatchHub
from configsvc.clock import Clock
from configsvc.domain.flag_filter import FlagFilter
from configsvc.domain.flags import flag_ref
from configsvc.domain.records import Record
from configsvc.errors import InvalidInput
from configsvc.rpc import convert
from configsvc.rpc.offload import offload, offload_items, offload_request
from configsvc.rpc.requests import field_mask, preconditions, request_metadata
from configsvc.rpc.responses import answers, response_metadata
from configsvc.rpc.responses.evaluations import evaluations
from configsvc.rpc.responses.message_budget import fit_item, fit_page
from configsvc.rpc.responses.watch_streams import WatchStreams

WRITABLE = field_mask.writable_fields(flag_pb2.UpdateFlagRequest, flag_pb2.Flag, identity=("name", "environment"))


class FlagServicer(flag_pb2_grpc.FlagServiceServicer):
    """See proto/configsvc/v1/flag.proto."""

    def __init__(self, store: FlagStore, evaluator: Evaluator, hub: WatchHub, clock: Clock) -> None:
        self._store = store
        self._evaluator = evaluator
        self._clock = clock
        self._watches = WatchStreams(
            hub,
            response=flag_pb2.WatchFlagsResponse,
            snapshot=lambda flags: flag_pb2.FlagSnapshot(flags=flags),
            item=convert.flag,
            change=convert.flag_change,
        )

    async def CreateFlag(self, request: Any, context: Any) -> flag_pb2.CreateFlagResponse:
        """Creates a flag."""
        preconditions.check_create(context)
        author = request_metadata.author(context, request, self._clock)
        record, revision = await self._store.create(
            await offload_request(request, lambda: convert.definition(request)), author
        )
        _tell(record, status=201)
        return flag_pb2.CreateFlagResponse(
            flag=await offload(record.held_bytes, lambda: convert.flag(record)), revision=revision
        )

    async def GetFlag(self, request: Any, context: Any) -> flag_pb2.GetFlagResponse:
        """One flag."""
        record, revision = await self._store.get(request.environment, request.name)
        _tell(record, status=304 if request_metadata.is_not_modified(context, record.etag) else 0)
        return flag_pb2.GetFlagResponse(
            flag=await offload(record.held_bytes, lambda: convert.flag(record)), revision=revision
        )

    async def ListFlags(self, request: Any, context: Any) -> flag_pb2.ListFlagsResponse:
        """One page of flags."""
        wanted = FlagFilter(
            enabled=convert.optional(request, "enabled"),
            tags=(*request.tags, *request.tags_brackets),
            owner=convert.optional(request, "owner"),
            created_before=convert.time_of(request, "created_before"),
            updated_before=convert.time_of(request, "updated_before"),
        )
        page = await self._store.list(request.environment, wanted, request.page_size, request.page_token)
        flags, token = await offload_items(page.items, lambda: fit_page(page, convert.flag))
        return flag_pb2.ListFlagsResponse(flags=flags, next_page_token=token, revision=page.revision)

    async def UpdateFlag(self, request: Any, context: Any) -> flag_pb2.UpdateFlagResponse:
        """Writes those members of a definition that are named."""
        named = field_mask.fields_to_write(context, request, WRITABLE)
        change = await self._store.update(
            flag_ref(request.environment, request.name),
            await offload_request(request, lambda: convert.members(request, named)),
            request_metadata.author(context, request, self._clock),
            precondition=preconditions.from_call(context, request),
            allow_missing=request.allow_missing,
        )
        record = convert.written(change)
        _tell(record, status=201 if record.is_new else 0)
        return flag_pb2.UpdateFlagResponse(
            flag=await offload(record.held_bytes, lambda: convert.flag(record)),
            revision=change.revision,
            changed_fields=await offload(change.held_bytes, lambda: convert.changed_flag_fields(change)),
        )

    async def DeleteFlag(self, request: Any, context: Any) -> flag_pb2.DeleteFlagResponse:
        """Deletes a flag."""
        author = request_metadata.author(context, request, self._clock)
        asked = preconditions.from_call(context, request)
        change = await self._store.delete(flag_ref(request.environment, request.name), author, precondition=asked)
        return flag_pb2.DeleteFlagResponse(
            name=request.name, environment=request.environment, version=change.version, revision=change.revision
        )

    async def ListFlagHistory(self, request: Any, context: Any) -> flag_pb2.ListFlagHistoryResponse:
        """One page of versions."""
        found = await self._store.history(request.environment, request.name, request.page_size, request.page_token)
        versions, token = await offload_items(found.page.items, lambda: fit_page(found.page, convert.flag_version))
        return flag_pb2.ListFlagHistoryResponse(
            versions=versions,
            next_page_token=token,
            revision=found.page.revision,
            compacted_through_version=found.compacted_through,
        )

    async def RollbackFlag(self, request: Any, context: Any) -> flag_pb2.RollbackFlagResponse:
        """Writes an earlier version again."""
        record, revision = await self._store.rollback(
            flag_ref(request.environment, request.name),
            request.version,
            request_metadata.author(context, request, self._clock),
            precondition=preconditions.from_call(context, request),
        )
        _tell(record)
        return flag_pb2.RollbackFlagResponse(
            flag=await offload(record.held_bytes, lambda: convert.flag(record)), revision=revision
        )

    async def DiffFlag(self, request: Any, context: Any) -> flag_pb2.DiffFlagResponse:
        """Compares two versions."""
        diff = await self._store.diff(request.environment, request.name, request.from_version, request.to_version)
        return await offload_items(
            (diff.older, diff.newer), lambda: answers.compared(flag_pb2.DiffFlagResponse, convert.flag_version, diff)
        )

    async def EvaluateFlag(self, request: Any, context: Any) -> flag_pb2.EvaluateFlagResponse:
        """One flag for one context."""
        found, revision = await self._evaluator.one(
            request.environment, request.flag_name, _context(request), explain=request.explain
        )
        evaluation = fit_item(lambda outcome, detail: convert.evaluation(outcome, request.user_id, detail), found)
        return flag_pb2.EvaluateFlagResponse(evaluation=evaluation, revision=revision)

    async def BatchEvaluateFlags(self, request: Any, context: Any) -> flag_pb2.BatchEvaluateFlagsResponse:
        """Many flags for one context, or many requests."""
        if request.requests:
            _check_alone(request)
            asked = [
                EvaluationRequest(one.environment, EvaluationQuery(one.flag_name, _context(one), one.explain))
                for one in request.requests
            ]
            outcomes, revision = await self._evaluator.many(asked)
            users = [one.user_id for one in request.requests]
        else:
            outcomes, revision = await self._evaluator.batch(
                request.environment, list(request.flag_names), _context(request), explain=request.explain
            )
            users = [request.user_id] * len(outcomes)
        return flag_pb2.BatchEvaluateFlagsResponse(results=evaluations(outcomes, users), revision=revision)

    def WatchFlags(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The state, then every change."""
        selector = self._store.selector(request.environment, list(request.names))
        return self._watches.stream(
            selector, convert.optional(request, "after_revision"), request_metadata.expected_history(context, request)
        )


def _check_alone(request: Any) -> None:
    """Raises `InvalidInput` where a batch of requests says something that would have no effect."""
    fields = ("flag_names", "user_id", "environment", "attributes", "explain")
    given = {field.name for field, _ in request.ListFields()}
    if not given.isdisjoint(fields):
        raise InvalidInput.of("requests", f"must not be given with {', '.join(fields)}: each request has its own")
    for index, one in enumerate(request.requests):
        if one.min_revision:
            where = f"requests[{index}].min_revision"
            raise InvalidInput.of(where, "must not be given: the batch has one min_revision, beside requests")


def _context(request: Any) -> Context:
    attributes = {name: convert.json_of(value) for name, value in request.attributes.fields.items()}
    return Context(request.user_id, attributes)


def _tell(record: Record, *, status: int = 0) -> None:
    location = response_metadata.rest_path("feature-flags", record.ref.key, environment=record.ref.environment)
    response_metadata.add_resource_metadata(record.etag, status=status, location=location if status == 201 else "")
