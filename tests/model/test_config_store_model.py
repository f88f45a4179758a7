"""Random sequences of operations: the configuration store on SQLite must agree with a plain dictionary."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from configsvc.app.changelog.tail import LogTail
from configsvc.app.changelog.writer import AppliedWriter
from configsvc.app.configs.near_cache import NearCache
from configsvc.app.configs.store import ConfigStore
from configsvc.bus.local import LocalBus
from configsvc.clock import SystemClock
from configsvc.domain.configs import ConfigDraft, ConfigFilter, ConfigOperation, config_ref
from configsvc.domain.limits import Limits
from configsvc.domain.pages import PageRequest
from configsvc.domain.preconditions import NO_PRECONDITION, Precondition
from configsvc.domain.records import Author
from configsvc.errors import AlreadyExists, NotFound, ServiceError, StaleEtag
from configsvc.storage.sqlite.storage import SqliteStorage

KEYS = st.sampled_from(["a", "b/c", "d e"])
SERVICES = st.sampled_from(["", "svc"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e6, 1e6) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
Identity = tuple[str, str]


class ConfigStoreModel(RuleBasedStateMachine):
    """`live` has the current values, `versions` every value of an identity (ABSENT: a delete)."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.live: dict[Identity, Any] = {}
        self.versions: dict[Identity, list[tuple[str, Any]]] = {}
        self.revision = 0
        self.requests = 0
        self.store = self.run(self._open())

    async def _open(self) -> ConfigStore:
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        storage = await self.stack.enter_async_context(SqliteStorage(Path(folder) / "configsvc.db"))
        bus = await self.stack.enter_async_context(LocalBus())
        tail = LogTail(log=storage, bus=bus, clock=SystemClock(), poll_seconds=1)
        await self.stack.enter_async_context(tail)
        near_cache = NearCache(reader=storage, tail=tail, max_entries=2)
        tail.subscribe(near_cache)
        writer = AppliedWriter(storage, tail)
        return ConfigStore(writer=writer, reader=storage, history=storage, near_cache=near_cache, limits=Limits())

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def author(self, request_id: str = "") -> Author:
        return Author("model", "", request_id, datetime.now(UTC))

    def did(self, who: Identity, what: str, value: Any = None) -> None:
        self.versions.setdefault(who, []).append((what, value))
        if what == "DELETE":
            del self.live[who]
        else:
            self.live[who] = value

    @rule(key=KEYS, service=SERVICES, value=JSON)
    def create(self, key: str, service: str, value: Any) -> None:
        self.requests += 1
        request_id = f"r{self.requests}"
        try:
            first = self.run(self.store.create(ConfigDraft("e", service, key, value), self.author(request_id)))
        except AlreadyExists:
            assert (service, key) in self.live
            return
        assert (service, key) not in self.live
        self.revision += 1
        self.did((service, key), "CREATE", value)
        # A retry has the same outcome and no further effect.
        assert self.run(self.store.create(ConfigDraft("e", service, key, value), self.author(request_id))) == first

    @rule(key=KEYS, service=SERVICES, value=JSON, stale=st.booleans())
    def update(self, key: str, service: str, value: Any, stale: bool) -> None:
        precondition = Precondition(match=("0-0",)) if stale else NO_PRECONDITION
        try:
            self.run(self.store.update(ConfigDraft("e", service, key, value), self.author(), precondition=precondition))
        except NotFound:
            assert (service, key) not in self.live
        except StaleEtag:
            assert stale
            assert (service, key) in self.live
        else:
            assert not stale
            self.revision += 1
            self.did((service, key), "UPDATE", value)

    @rule(key=KEYS, service=SERVICES)
    def delete(self, key: str, service: str) -> None:
        try:
            self.run(self.store.delete(config_ref("e", service, key), self.author()))
        except NotFound:
            assert (service, key) not in self.live
        else:
            self.revision += 1
            self.did((service, key), "DELETE")

    @rule(key=KEYS, service=SERVICES, version=st.integers(1, 4))
    def roll_back(self, key: str, service: str, version: int) -> None:
        known = self.versions.get((service, key), [])
        try:
            self.run(self.store.rollback(config_ref("e", service, key), version, self.author()))
        except ServiceError:
            assert version > len(known) or known[version - 1][0] == "DELETE"
        else:
            self.revision += 1
            self.did((service, key), "ROLLBACK", known[version - 1][1])

    @rule(value=JSON, fails=st.booleans())
    def batch(self, value: Any, fails: bool) -> None:
        operations = [ConfigOperation(ConfigDraft("e", "", key, value)) for key in ("a", "b/c")]
        if fails:
            operations.append(ConfigOperation(ConfigDraft("e", "", "nope", None), delete=True))
        try:
            self.run(self.store.batch_write("e", operations, self.author()))
        except NotFound:
            assert fails
        else:
            assert not fails
            self.revision += 1
            for operation in operations:
                who = ("", operation.draft.key)
                self.did(who, "UPDATE" if who in self.live else "CREATE", value)

    @invariant()
    def agrees(self) -> None:
        page = self.run(self.store.list(ConfigFilter("e"), PageRequest(1000)))
        assert page.revision == self.revision
        shown = {(r.ref.service, r.ref.key): r.body["value"] for r in page.items}
        assert repr(sorted(shown.items())) == repr(sorted(self.live.items()))
        for who, versions in self.versions.items():
            history = self.run(self.store.history(config_ref("e", *who), PageRequest(1000))).page.items
            assert [(c.action.value, c.version) for c in reversed(history)] == [
                (what, number + 1) for number, (what, _) in enumerate(versions)
            ]
            if who in self.live:
                record = self.run(self.store.get(config_ref("e", *who))).value
                assert repr(record.body["value"]) == repr(self.live[who])

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.loop.close()


TestConfigStoreModel = ConfigStoreModel.TestCase
TestConfigStoreModel.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
