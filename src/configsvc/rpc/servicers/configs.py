"""ConfigService: check, call, convert."""

from collections.abc import AsyncIterator

from configsvc_client.v1 import config_pb2, config_pb2_grpc

from configsvc.app.configs.store import ConfigStore
from configsvc.app.watch.hub import WatchHub
from configsvc.clock import Clock
from configsvc.domain.configs import ConfigFilter
from configsvc.domain.pages import PageRequest
from configsvc.domain.records import Record
from configsvc.rpc import convert
from configsvc.rpc.context import CallContext, direct_write
from configsvc.rpc.convert import CONFIG_FIELDS, ref_of
from configsvc.rpc.convert.message_budget import fit_page
from configsvc.rpc.offload import offload, offload_items, offload_request
from configsvc.rpc.requests import field_mask, preconditions, request_metadata
from configsvc.rpc.responses import answers, response_metadata
from configsvc.rpc.responses.watch_streams import WatchStreams


class ConfigServicer(config_pb2_grpc.ConfigServiceServicer):
    """proto/configsvc/v1/config.proto says what each method does."""

    def __init__(self, store: ConfigStore, hub: WatchHub, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._watches = WatchStreams(
            hub,
            response=config_pb2.WatchConfigsResponse,
            snapshot=lambda configs: config_pb2.ConfigSnapshot(configs=configs),
            item=convert.config,
            change=convert.config_change,
        )

    async def CreateConfig(
        self, request: config_pb2.CreateConfigRequest, context: CallContext
    ) -> config_pb2.CreateConfigResponse:
        preconditions.check_create(context)
        draft = await offload_request(request, lambda: convert.config_draft(request))
        change = await self._store.create(draft, request_metadata.author(context, request, self._clock))
        written = change.written
        _add_metadata(written, status=201)
        return config_pb2.CreateConfigResponse(config=await _config(written), revision=change.revision)

    async def GetConfig(
        self, request: config_pb2.GetConfigRequest, context: CallContext
    ) -> config_pb2.GetConfigResponse:
        found = await self._store.get(ref_of(request))
        _add_metadata(found.value, status=304 if request_metadata.is_not_modified(context, found.value.etag) else 0)
        return config_pb2.GetConfigResponse(config=await _config(found.value), revision=found.revision)

    async def ListConfigs(
        self, request: config_pb2.ListConfigsRequest, context: CallContext
    ) -> config_pb2.ListConfigsResponse:
        service = request.service_name if request.HasField("service_name") else None
        selected = ConfigFilter(request.environment, service, (*request.keys, *request.keys_brackets), request.prefix)
        page = await self._store.list(selected, PageRequest(request.page_size, request.page_token))
        configs, token = await offload_items(page.items, lambda: fit_page(page, convert.config))
        return config_pb2.ListConfigsResponse(configs=configs, next_page_token=token, revision=page.revision)

    async def UpdateConfig(
        self, request: config_pb2.UpdateConfigRequest, context: CallContext
    ) -> config_pb2.UpdateConfigResponse:
        fields = field_mask.fields_to_write(context, request, CONFIG_FIELDS)
        draft = await offload_request(request, lambda: convert.partial_config_draft(request, fields))
        author = request_metadata.author(context, request, self._clock)
        precondition, missing = preconditions.from_call(context, request), request.allow_missing
        change = await self._store.update(draft, author, precondition=precondition, allow_missing=missing)
        written = change.written
        _add_metadata(written, status=201 if written.is_new else 0)
        changed = await offload(change.held_bytes, lambda: convert.changed_fields(change))
        config = await _config(written)
        return config_pb2.UpdateConfigResponse(config=config, revision=change.revision, changed_fields=changed)

    async def DeleteConfig(
        self, request: config_pb2.DeleteConfigRequest, context: CallContext
    ) -> config_pb2.DeleteConfigResponse:
        author = request_metadata.author(context, request, self._clock)
        precondition = preconditions.from_call(context, request)
        change = await self._store.delete(ref_of(request), author, precondition=precondition)
        return config_pb2.DeleteConfigResponse(
            key=request.key,
            environment=request.environment,
            service_name=request.service_name,
            version=change.version,
            revision=change.revision,
        )

    async def ListConfigHistory(
        self, request: config_pb2.ListConfigHistoryRequest, context: CallContext
    ) -> config_pb2.ListConfigHistoryResponse:
        found = await self._store.history(ref_of(request), PageRequest(request.page_size, request.page_token))
        page = found.page
        versions, token = await offload_items(page.items, lambda: fit_page(page, convert.config_version))
        return config_pb2.ListConfigHistoryResponse(
            versions=versions,
            next_page_token=token,
            revision=page.revision,
            compacted_through_version=found.compacted_through,
        )

    async def BulkGetConfigs(
        self, request: config_pb2.BulkGetConfigsRequest, context: CallContext
    ) -> config_pb2.BulkGetConfigsResponse:
        bulk = await self._store.bulk(request.environment, request.service_name, list(request.keys))
        return await offload_items(bulk.found, lambda: answers.bulk_response(request.keys, bulk))

    async def GetEffectiveConfig(
        self, request: config_pb2.GetEffectiveConfigRequest, context: CallContext
    ) -> config_pb2.GetEffectiveConfigResponse:
        wanted = PageRequest(request.page_size, request.page_token)
        page = await self._store.effective(request.environment, request.service_name, request.prefix, wanted)
        configs, token = await offload_items(page.items, lambda: fit_page(page, convert.effective))
        return config_pb2.GetEffectiveConfigResponse(configs=configs, next_page_token=token, revision=page.revision)

    async def GetEffectiveValue(
        self, request: config_pb2.GetEffectiveValueRequest, context: CallContext
    ) -> config_pb2.GetEffectiveValueResponse:
        found = await self._store.effective_value(ref_of(request))
        status = 304 if request_metadata.is_not_modified(context, found.value.etag) else 0
        response_metadata.add_resource_metadata(found.value.etag, status=status)
        config = await offload(found.value.held_bytes, lambda: convert.effective(found.value))
        return config_pb2.GetEffectiveValueResponse(config=config, revision=found.revision)

    async def BatchWriteConfigs(
        self, request: config_pb2.BatchWriteConfigsRequest, context: CallContext
    ) -> config_pb2.BatchWriteConfigsResponse:
        preconditions.refuse_headers(context)
        indexes = range(len(request.operations))
        operations = await offload_request(
            request, lambda: [convert.config_operation(request, index) for index in indexes]
        )
        author = request_metadata.author(context, request, self._clock)
        commit = await self._store.batch_write(request.environment, operations, author)
        return await offload_items(commit.changes, lambda: answers.batch_response(commit))

    async def RollbackConfig(
        self, request: config_pb2.RollbackConfigRequest, context: CallContext
    ) -> config_pb2.RollbackConfigResponse:
        author = request_metadata.author(context, request, self._clock)
        precondition = preconditions.from_call(context, request)
        change = await self._store.rollback(ref_of(request), request.version, author, precondition=precondition)
        written = change.written
        _add_metadata(written)
        return config_pb2.RollbackConfigResponse(config=await _config(written), revision=change.revision)

    async def DiffConfig(
        self, request: config_pb2.DiffConfigRequest, context: CallContext
    ) -> config_pb2.DiffConfigResponse:
        diff = await self._store.diff(ref_of(request), request.from_version, request.to_version)
        return await offload_items(
            (diff.older, diff.newer),
            lambda: answers.diff_response(config_pb2.DiffConfigResponse, convert.config_version, diff),
        )

    def WatchConfigs(
        self, request: config_pb2.WatchConfigsRequest, context: CallContext
    ) -> AsyncIterator[config_pb2.WatchConfigsResponse]:
        service = request.service_name if request.HasField("service_name") else None
        selected = ConfigFilter(request.environment, service, tuple(request.keys), request.prefix)
        after = request.after_revision if request.HasField("after_revision") else None
        history = request_metadata.expected_history(context, request)
        return self._watches.stream(self._store.selector(selected), after, history, direct_write(context))


async def _config(record: Record) -> config_pb2.Config:
    return await offload(record.held_bytes, lambda: convert.config(record))


def _add_metadata(record: Record, *, status: int = 0) -> None:
    location = ""
    if status == 201:
        ref = record.ref
        location = response_metadata.rest_path("config", ref.key, environment=ref.environment, service_name=ref.service)
    response_metadata.add_resource_metadata(record.etag, status=status, location=location)
