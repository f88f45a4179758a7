"""One replica whose reads can be asked both ways: quick, and on the general path behind the interceptor."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from configsvc_client.v1 import config_pb2, config_pb2_grpc, flag_pb2, flag_pb2_grpc, registry_pb2
from google.protobuf.message import Message

from configsvc.app.changelog.writer import AppliedWriter
from configsvc.app.configs.near_cache import NearCache
from configsvc.app.configs.store import ConfigStore
from configsvc.app.fallback_cache import FallbackCache
from configsvc.app.flags.evaluator import Evaluator
from configsvc.app.flags.sets import FlagSets
from configsvc.app.flags.sticky import StickyAssignments
from configsvc.app.flags.store import FlagStore
from configsvc.cache.local import LocalCache
from configsvc.clock import SystemClock
from configsvc.domain.limits import Limits
from configsvc.rpc.engine.port import EngineMethod, QuickAnswer, RequestMetadata
from configsvc.rpc.interceptors import AccessLog, CallInterceptor
from configsvc.rpc.quick_reads import Answer, Positions, QuickConfigs, QuickFlags, QuickReads
from configsvc.rpc.servicers.configs import ConfigServicer
from configsvc.rpc.servicers.flags import FlagServicer
from configsvc.rpc.services import CONFIGS, FLAGS
from tests.app.replica import Replica, open_replica, open_storage

MODULES = (config_pb2, flag_pb2, registry_pb2)
# Of a story.
STEPS = 40

W = TypeVar("W")


class Story(Protocol):
    """Random writes and reads in one world. `compared`: how many quick answers were compared so far."""

    compared: int

    async def step(self) -> None: ...


def played(opened: Callable[[Path], AbstractAsyncContextManager[W]], story_in: Callable[[W], Story]) -> int:
    """Plays a story in a world of its own; returns how many quick answers were compared."""

    async def play() -> int:
        with tempfile.TemporaryDirectory() as folder:
            async with opened(Path(folder)) as world:
                story = story_in(world)
                for _ in range(STEPS):
                    await story.step()
                return story.compared

    return asyncio.run(play())


class Context:
    """A call without a network."""

    def __init__(self, metadata: RequestMetadata) -> None:
        self._metadata = tuple(metadata)
        self.trailing: tuple[tuple[str, str], ...] = ()
        self.details = ""

    def invocation_metadata(self) -> RequestMetadata:
        return self._metadata

    def peer(self) -> str:
        return "unix:"

    def time_remaining(self) -> float | None:
        return 5.0

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self.trailing = tuple(trailing_metadata)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        raise Aborted(code)


class Aborted(grpc.aio.AbortError):
    """The general path has ended the call with an error."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__()
        self.code = code


class Handlers:
    """In place of a server: collects the handlers of servicers, by path."""

    def __init__(self) -> None:
        self.by_path: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """For servicers that are added by the older way only."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.by_path |= {f"/{service}/{name}": handler for name, handler in handlers.items()}


class BothWays:
    """Reads that can be asked both ways. `add` servicers and quick reads before the first question."""

    def __init__(self, replica: Replica) -> None:
        self.replica, self.tail = replica, replica.tail
        self.access_log = AccessLog(writes_all=False, slow_seconds=60)
        self.quick = QuickReads(Positions(replica.tail), self.access_log.sample_of)
        self._interceptor = CallInterceptor(
            tail=replica.tail, default_deadline_seconds=5, access_log=AccessLog(writes_all=True, slow_seconds=60)
        )
        self._methods: dict[str, EngineMethod] = {}

    def add(self, add_to_server: Callable[[Any, Any], None], servicer: Any) -> None:
        """Adds a servicer, for the general path."""
        handlers = Handlers()
        add_to_server(servicer, handlers)
        for path, handler in handlers.by_path.items():
            self._methods[path] = self._interceptor.surround(path, handler)

    def ask_quickly(self, method: str, received: bytes, metadata: RequestMetadata = ()) -> QuickAnswer | None:
        """The quick answer, whether or not the access log would have a line."""
        path = path_of(method)
        # The last line was in a distant future, so the next one is not due.
        self.access_log.of(path).write(1e12, started=1e12, request_id="", metadata={}, peer="")
        return self.quick.by_path[path](received, metadata)

    async def ask(self, method: str, received: bytes, metadata: RequestMetadata = ()) -> Answer:
        """The answer of the general path. Raises `Aborted`."""
        context: Any = Context(metadata)
        message = await self._methods[path_of(method)].run(received, context)
        return Answer(message, context.trailing, context.details)


class World(BothWays):
    """A replica with configurations and flags."""

    def __init__(
        self, replica: Replica, assignments: FallbackCache, near_cache_bytes: int, near_cache_entries: int
    ) -> None:
        super().__init__(replica)
        writer, clock, limits = AppliedWriter(replica.storage, replica.tail), SystemClock(), Limits()
        reader: Any = replica.reader
        self.near_cache = replica.following(
            NearCache(reader=reader, tail=replica.tail, max_entries=near_cache_entries, max_bytes=near_cache_bytes)
        )
        sets = replica.following(FlagSets(reader=reader, tail=replica.tail))
        history = replica.storage
        self.configs = ConfigStore(
            writer=writer, reader=reader, history=history, near_cache=self.near_cache, limits=limits
        )
        self.flags = FlagStore(writer=writer, reader=reader, history=history, limits=limits, keeps_assignments=True)
        evaluator = Evaluator(sets=sets, assignments=StickyAssignments(assignments), tail=replica.tail, limits=limits)
        hub: Any = None  # No test here watches.
        self.add(config_pb2_grpc.add_ConfigServiceServicer_to_server, ConfigServicer(self.configs, hub, clock))
        self.add(flag_pb2_grpc.add_FlagServiceServicer_to_server, FlagServicer(self.flags, evaluator, hub, clock))
        self.quick.add(CONFIGS.descriptor, QuickConfigs(self.configs, limits.batch_size).methods)
        self.quick.add(FLAGS.descriptor, QuickFlags(evaluator, limits.batch_size).methods)


def service_of(method: str) -> Any:
    """The service that has a method."""
    services = [service for module in MODULES for service in module.DESCRIPTOR.services_by_name.values()]
    return next(service for service in services if method in service.methods_by_name)


def path_of(method: str) -> str:
    """The path of a method."""
    return f"/{service_of(method).full_name}/{method}"


def response_type(method: str) -> type[Message]:
    """The type of a method's answer."""
    name = service_of(method).methods_by_name[method].output_type.name
    found: type[Message] = next(getattr(module, name) for module in MODULES if hasattr(module, name))
    return found


@asynccontextmanager
async def open_world(
    folder: Path, near_cache_bytes: int = 1 << 24, near_cache_entries: int = 200
) -> AsyncIterator[World]:
    clock = SystemClock()
    async with (
        open_storage(folder) as storage,
        open_replica(storage, clock) as replica,
        FallbackCache(LocalCache(1 << 24, clock), clock, timedelta(hours=1), name="assignments") as assignments,
    ):
        yield World(replica, assignments, near_cache_bytes, near_cache_entries)
