"""ConfigService: check, call, convert."""

from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from typing import Any

from configsvc_client.v1 import config_pb2, config_pb2_grpc

from configsvc.app.configs.store import ConfigStore
from configsvc.app.watch.hub import WatchHub
from configsvc.clock import Clock
from configsvc.domain.configs import ConfigDraft, ConfigOperation, config_ref
from configsvc.domain.json_values import MISSING, MISSING_VALUE
from configsvc.domain.records import Record, Ref
from configsvc.errors import InvalidInput
from configsvc.rpc import convert
from configsvc.rpc.offload import offload, offload_items, offload_request
from configsvc.rpc.requests import field_mask, preconditions, request_metadata
from configsvc.rpc.responses import answers, response_metadata
from configsvc.rpc.responses.message_budget import fit_page
from configsvc.rpc.responses.watch_streams import WatchStreams

WRITABLE = field_mask.writable_fields(
    config_pb2.UpdateConfigRequest, config_pb2.Config, identity=("key", "environment", "service_name")
)


class ConfigServicer(config_pb2_grpc.ConfigServiceServicer):
    """See proto/configsvc/v1/config.proto."""

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

    async def CreateConfig(self, request: Any, context: Any) -> config_pb2.CreateConfigResponse:
        """Creates a configuration."""
        preconditions.check_create(context)
        wanted = await offload_request(request, lambda: draft(request))
        record, revision = await self._store.create(wanted, request_metadata.author(context, request, self._clock))
        _tell(record, status=201)
        return config_pb2.CreateConfigResponse(
            config=await offload(record.held_bytes, lambda: convert.config(record)), revision=revision
        )

    async def GetConfig(self, request: Any, context: Any) -> config_pb2.GetConfigResponse:
        """One configuration."""
        record, revision = await self._store.get(request.environment, request.service_name, request.key)
        _tell(record, status=304 if request_metadata.is_not_modified(context, record.etag) else 0)
        return config_pb2.GetConfigResponse(
            config=await offload(record.held_bytes, lambda: convert.config(record)), revision=revision
        )

    async def ListConfigs(self, request: Any, context: Any) -> config_pb2.ListConfigsResponse:
        """One page of configurations."""
        page = await self._store.list(
            request.environment,
            convert.optional(request, "service_name"),
            [*request.keys, *request.keys_brackets],
            request.prefix,
            request.page_size,
            request.page_token,
        )
        configs, token = await offload_items(page.items, lambda: fit_page(page, convert.config))
        return config_pb2.ListConfigsResponse(configs=configs, next_page_token=token, revision=page.revision)

    async def UpdateConfig(self, request: Any, context: Any) -> config_pb2.UpdateConfigResponse:
        """Writes a new version."""
        named = field_mask.fields_to_write(context, request, WRITABLE)
        change = await self._store.update(
            await offload_request(request, lambda: partial_draft(request, named)),
            request_metadata.author(context, request, self._clock),
            precondition=preconditions.from_call(context, request),
            allow_missing=request.allow_missing,
        )
        record = convert.written(change)
        _tell(record, status=201 if record.is_new else 0)
        return config_pb2.UpdateConfigResponse(
            config=await offload(record.held_bytes, lambda: convert.config(record)),
            revision=change.revision,
            changed_fields=await offload(change.held_bytes, lambda: convert.changed_fields(change)),
        )

    async def DeleteConfig(self, request: Any, context: Any) -> config_pb2.DeleteConfigResponse:
        """Deletes a configuration."""
        author = request_metadata.author(context, request, self._clock)
        asked = preconditions.from_call(context, request)
        change = await self._store.delete(_ref(request), author, precondition=asked)
        return config_pb2.DeleteConfigResponse(
            key=request.key,
            environment=request.environment,
            service_name=request.service_name,
            version=change.version,
            revision=change.revision,
        )

    async def ListConfigHistory(self, request: Any, context: Any) -> config_pb2.ListConfigHistoryResponse:
        """One page of versions."""
        found = await self._store.history(
            request.environment, request.service_name, request.key, request.page_size, request.page_token
        )
        versions, token = await offload_items(found.page.items, lambda: fit_page(found.page, convert.config_version))
        return config_pb2.ListConfigHistoryResponse(
            versions=versions,
            next_page_token=token,
            revision=found.page.revision,
            compacted_through_version=found.compacted_through,
        )

    async def BulkGetConfigs(self, request: Any, context: Any) -> config_pb2.BulkGetConfigsResponse:
        """Many configurations."""
        bulk = await self._store.bulk(request.environment, request.service_name, list(request.keys))
        return await offload_items(bulk.found, lambda: answers.bulk(request.keys, bulk))

    async def GetEffectiveConfig(self, request: Any, context: Any) -> config_pb2.GetEffectiveConfigResponse:
        """All values as a service sees them."""
        page = await self._store.effective(
            request.environment, request.service_name, request.prefix, request.page_size, request.page_token
        )
        configs, token = await offload_items(page.items, lambda: fit_page(page, convert.effective))
        return config_pb2.GetEffectiveConfigResponse(configs=configs, next_page_token=token, revision=page.revision)

    async def GetEffectiveValue(self, request: Any, context: Any) -> config_pb2.GetEffectiveValueResponse:
        """One value as a service sees it."""
        found, revision = await self._store.effective_value(request.environment, request.service_name, request.key)
        response_metadata.add_resource_metadata(
            found.etag, status=304 if request_metadata.is_not_modified(context, found.etag) else 0
        )
        return config_pb2.GetEffectiveValueResponse(
            config=await offload(found.held_bytes, lambda: convert.effective(found)), revision=revision
        )

    async def BatchWriteConfigs(self, request: Any, context: Any) -> config_pb2.BatchWriteConfigsResponse:
        """Many writes in one revision."""
        preconditions.refuse_headers(context)
        operations = await offload_request(
            request, lambda: [_operation(request, index) for index in range(len(request.operations))]
        )
        author = request_metadata.author(context, request, self._clock)
        commit = await self._store.batch_write(request.environment, operations, author)
        return await offload_items(commit.changes, lambda: answers.batch(commit))

    async def RollbackConfig(self, request: Any, context: Any) -> config_pb2.RollbackConfigResponse:
        """Writes an earlier version again."""
        record, revision = await self._store.rollback(
            _ref(request),
            request.version,
            request_metadata.author(context, request, self._clock),
            precondition=preconditions.from_call(context, request),
        )
        _tell(record)
        return config_pb2.RollbackConfigResponse(
            config=await offload(record.held_bytes, lambda: convert.config(record)), revision=revision
        )

    async def DiffConfig(self, request: Any, context: Any) -> config_pb2.DiffConfigResponse:
        """Compares two versions."""
        diff = await self._store.diff(
            request.environment, request.service_name, request.key, request.from_version, request.to_version
        )
        return await offload_items(
            (diff.older, diff.newer),
            lambda: answers.compared(config_pb2.DiffConfigResponse, convert.config_version, diff),
        )

    def WatchConfigs(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The state, then every change."""
        service = convert.optional(request, "service_name")
        selector = self._store.selector(request.environment, service, list(request.keys), request.prefix)
        return self._watches.stream(
            selector, convert.optional(request, "after_revision"), request_metadata.expected_history(context, request)
        )


def _ref(request: Any) -> Ref:
    return config_ref(request.environment, request.service_name, request.key)


def draft(request: Any) -> ConfigDraft:
    """What a request to write a configuration wants it to be."""
    # Everything else is checked together in the store; here a value that is missing stands in for itself.
    return ConfigDraft(
        environment=request.environment,
        service_name=request.service_name,
        key=request.key,
        value=convert.json_or_missing(request),
        description=request.description,
    )


def partial_draft(request: Any, named: Collection[str]) -> ConfigDraft:
    """What is named; all else stays."""
    whole = draft(request)
    if "value" in named and whole.value is MISSING:
        raise InvalidInput.of("value", MISSING_VALUE)
    return replace(
        whole,
        value=whole.value if "value" in named else MISSING,
        description=whole.description if "description" in named else None,
    )


def _operation(request: Any, index: int) -> ConfigOperation:
    asked = request.operations[index]
    if asked.delete and asked.HasField("value"):
        raise InvalidInput.of(f"operations[{index}].value", "must not be given with delete")
    draft = ConfigDraft(
        environment=request.environment,
        service_name=asked.service_name,
        key=asked.key,
        value=convert.json_or_missing(asked, f"operations[{index}].value"),
        description=convert.optional(asked, "description"),
    )
    precondition = preconditions.from_operation(asked, f"operations[{index}]")
    return ConfigOperation(draft, delete=asked.delete, precondition=precondition, must_not_exist=asked.must_not_exist)


def _tell(record: Record, *, status: int = 0) -> None:
    ref = record.ref
    location = response_metadata.rest_path("config", ref.key, environment=ref.environment, service_name=ref.service)
    response_metadata.add_resource_metadata(record.etag, status=status, location=location if status == 201 else "")
