"""FlagService: check, call, convert."""

from collections.abc import AsyncIterator

from configsvc_client.v1 import flag_pb2, flag_pb2_grpc

from configsvc.app.flags.evaluation import EvaluationQuery
from configsvc.app.flags.evaluator import EvaluationRequest, Evaluator
from configsvc.app.flags.store import FlagStore
from configsvc.app.watch.hub import WatchHub
from configsvc.clock import Clock
from configsvc.domain.flags import flag_ref
from configsvc.domain.records import Record
from configsvc.errors import InvalidInput
from configsvc.rpc import convert
from configsvc.rpc.context import CallContext, direct_write
from configsvc.rpc.convert import FLAG_FIELDS
from configsvc.rpc.convert.message_budget import fit_item, fit_page
from configsvc.rpc.offload import offload, offload_items, offload_request
from configsvc.rpc.requests import field_mask, preconditions, request_metadata
from configsvc.rpc.responses import answers, response_metadata
from configsvc.rpc.responses.evaluations import evaluations
from configsvc.rpc.responses.watch_streams import WatchStreams


class FlagServicer(flag_pb2_grpc.FlagServiceServicer):
    """proto/configsvc/v1/flag.proto says what each method does."""

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

    async def CreateFlag(
        self, request: flag_pb2.CreateFlagRequest, context: CallContext
    ) -> flag_pb2.CreateFlagResponse:
        preconditions.check_create(context)
        author = request_metadata.author(context, request, self._clock)
        definition = await offload_request(request, lambda: convert.definition(request))
        change = await self._store.create(definition, author)
        _add_metadata(change.written, status=201)
        return flag_pb2.CreateFlagResponse(flag=await _flag(change.written), revision=change.revision)

    async def GetFlag(self, request: flag_pb2.GetFlagRequest, context: CallContext) -> flag_pb2.GetFlagResponse:
        found = await self._store.get(request.environment, request.name)
        _add_metadata(found.value, status=304 if request_metadata.is_not_modified(context, found.value.etag) else 0)
        return flag_pb2.GetFlagResponse(flag=await _flag(found.value), revision=found.revision)

    async def ListFlags(self, request: flag_pb2.ListFlagsRequest, context: CallContext) -> flag_pb2.ListFlagsResponse:
        selected = convert.flag_filter(request)
        page = await self._store.list(request.environment, selected, request.page_size, request.page_token)
        flags, token = await offload_items(page.items, lambda: fit_page(page, convert.flag))
        return flag_pb2.ListFlagsResponse(flags=flags, next_page_token=token, revision=page.revision)

    async def UpdateFlag(
        self, request: flag_pb2.UpdateFlagRequest, context: CallContext
    ) -> flag_pb2.UpdateFlagResponse:
        fields = field_mask.fields_to_write(context, request, FLAG_FIELDS)
        ref, missing = flag_ref(request.environment, request.name), request.allow_missing
        members = await offload_request(request, lambda: convert.members(request, fields))
        author = request_metadata.author(context, request, self._clock)
        precondition = preconditions.from_call(context, request)
        change = await self._store.update(ref, members, author, precondition=precondition, allow_missing=missing)
        _add_metadata(change.written, status=201 if change.written.is_new else 0)
        changed = await offload(change.held_bytes, lambda: convert.changed_flag_fields(change))
        flag = await _flag(change.written)
        return flag_pb2.UpdateFlagResponse(flag=flag, revision=change.revision, changed_fields=changed)

    async def DeleteFlag(
        self, request: flag_pb2.DeleteFlagRequest, context: CallContext
    ) -> flag_pb2.DeleteFlagResponse:
        ref = flag_ref(request.environment, request.name)
        author = request_metadata.author(context, request, self._clock)
        change = await self._store.delete(ref, author, precondition=preconditions.from_call(context, request))
        return flag_pb2.DeleteFlagResponse(
            name=request.name, environment=request.environment, version=change.version, revision=change.revision
        )

    async def ListFlagHistory(
        self, request: flag_pb2.ListFlagHistoryRequest, context: CallContext
    ) -> flag_pb2.ListFlagHistoryResponse:
        found = await self._store.history(request.environment, request.name, request.page_size, request.page_token)
        page = found.page
        versions, token = await offload_items(page.items, lambda: fit_page(page, convert.flag_version))
        return flag_pb2.ListFlagHistoryResponse(
            versions=versions,
            next_page_token=token,
            revision=page.revision,
            compacted_through_version=found.compacted_through,
        )

    async def RollbackFlag(
        self, request: flag_pb2.RollbackFlagRequest, context: CallContext
    ) -> flag_pb2.RollbackFlagResponse:
        ref = flag_ref(request.environment, request.name)
        author = request_metadata.author(context, request, self._clock)
        precondition = preconditions.from_call(context, request)
        change = await self._store.rollback(ref, request.version, author, precondition=precondition)
        _add_metadata(change.written)
        return flag_pb2.RollbackFlagResponse(flag=await _flag(change.written), revision=change.revision)

    async def DiffFlag(self, request: flag_pb2.DiffFlagRequest, context: CallContext) -> flag_pb2.DiffFlagResponse:
        diff = await self._store.diff(request.environment, request.name, request.from_version, request.to_version)
        return await offload_items(
            (diff.older, diff.newer),
            lambda: answers.diff_response(flag_pb2.DiffFlagResponse, convert.flag_version, diff),
        )

    async def EvaluateFlag(
        self, request: flag_pb2.EvaluateFlagRequest, context: CallContext
    ) -> flag_pb2.EvaluateFlagResponse:
        found = await self._evaluator.one(
            request.environment, request.flag_name, convert.context(request), explain=request.explain
        )
        evaluation = fit_item(lambda outcome, detail: convert.evaluation(outcome, request.user_id, detail), found.value)
        return flag_pb2.EvaluateFlagResponse(evaluation=evaluation, revision=found.revision)

    async def BatchEvaluateFlags(
        self, request: flag_pb2.BatchEvaluateFlagsRequest, context: CallContext
    ) -> flag_pb2.BatchEvaluateFlagsResponse:
        if request.requests:
            found = await self._evaluator.many(_evaluation_requests(request))
            users = [one.user_id for one in request.requests]
        else:
            found = await self._evaluator.batch(
                request.environment, list(request.flag_names), convert.context(request), explain=request.explain
            )
            users = [request.user_id] * len(found.value)
        return flag_pb2.BatchEvaluateFlagsResponse(results=evaluations(found.value, users), revision=found.revision)

    def WatchFlags(
        self, request: flag_pb2.WatchFlagsRequest, context: CallContext
    ) -> AsyncIterator[flag_pb2.WatchFlagsResponse]:
        selector = self._store.selector(request.environment, list(request.names))
        after = request.after_revision if request.HasField("after_revision") else None
        history = request_metadata.expected_history(context, request)
        return self._watches.stream(selector, after, history, direct_write(context))


def _evaluation_requests(request: flag_pb2.BatchEvaluateFlagsRequest) -> list[EvaluationRequest]:
    """The items of a batch. Raises `InvalidInput` if the batch has fields that would have no effect."""
    fields = ("flag_names", "user_id", "environment", "attributes", "explain")
    if not {field.name for field, _ in request.ListFields()}.isdisjoint(fields):
        raise InvalidInput.of("requests", f"must not be given with {', '.join(fields)}: each request has its own")
    for index, one in enumerate(request.requests):
        if one.min_revision:
            field = f"requests[{index}].min_revision"
            raise InvalidInput.of(field, "must not be given: the batch has one min_revision, beside requests")
    return [
        EvaluationRequest(one.environment, EvaluationQuery(one.flag_name, convert.context(one), one.explain))
        for one in request.requests
    ]


async def _flag(record: Record) -> flag_pb2.Flag:
    return await offload(record.held_bytes, lambda: convert.flag(record))


def _add_metadata(record: Record, *, status: int = 0) -> None:
    path = response_metadata.rest_path("feature-flags", record.ref.key, environment=record.ref.environment)
    response_metadata.add_resource_metadata(record.etag, status=status, location=path if status == 201 else "")
