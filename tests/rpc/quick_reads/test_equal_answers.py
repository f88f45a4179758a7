"""A quick answer is the answer of the general path, whatever was written and whatever is asked."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from configsvc_client.evaluation import Flag
from configsvc_client.v1 import config_pb2, flag_pb2
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.domain.configs import ConfigDraft, config_ref
from configsvc.domain.flags import flag_ref
from configsvc.domain.records import Action, Author, Put
from configsvc.errors import ServiceError, Unavailable
from configsvc.rpc.engine.port import QuickAnswer, RequestMetadata
from configsvc.rpc.interceptors.messages import RESOURCE_FIELDS
from tests.app.replica import AT, write_all
from tests.rpc.quick_reads.world import Aborted, World, open_world, path_of, played, response_type
from tests.rpc.strategies import JSON, flags

ENVIRONMENTS, SERVICES, KEYS, FLAGS = ("test", "prod"), ("", "svc"), ("a", "b/c", "ü", "z"), ("f", "g", "h", "i")
USERS = ("", "u1", "u2", "ünï", "a\nb", "\0", "x" * 513)


class Story:
    """Writes, outages and reads in a random order. Each read is asked both ways."""

    def __init__(self, world: World, chance: random.Random, values: Sequence[Any], definitions: Sequence[Any]) -> None:
        self._world, self._chance = world, chance
        self._values, self._definitions = values, definitions
        self._writes = 0
        self.compared = 0

    async def step(self) -> None:
        does = [self._write_config, self._write_flag, self._write_elsewhere, self._turn_store]
        await self._chance.choices([*does, self._read], [4, 4, 2, 1, 20])[0]()

    async def _write_config(self) -> None:
        environment, service, key = self._config()
        store, author = self._world.configs, self._author()
        try:
            if self._chance.random() < 0.2:
                await store.delete(config_ref(environment, service, key), author)
            else:
                draft = ConfigDraft(environment, service, key, self._chance.choice(self._values), "d")
                await store.update(draft, author, allow_missing=True)
        except ServiceError:
            pass

    async def _write_flag(self) -> None:
        environment, name = self._chance.choice(ENVIRONMENTS), self._chance.choice(FLAGS)
        ref, author = flag_ref(environment, name), self._author()
        others = [other for other in FLAGS if other > name]
        prerequisites = [{"flag_name": other, "variants": ["on"]} for other in others if self._chance.random() < 0.2]
        members = self._chance.choice(self._definitions) if self._chance.random() < 0.5 else {"rollout_percentage": 50}
        try:
            if self._chance.random() < 0.3:
                await self._world.flags.delete(ref, author)
                return
            definition = {"name": name, "environment": environment, "enabled": True, "prerequisites": prerequisites}
            whole = Flag.from_json({**definition, **members}).to_json()
            await self._world.flags.update(ref, whole, author, allow_missing=True)
        except ServiceError:
            pass

    async def _write_elsewhere(self) -> None:
        """Another replica writes. This one reads it later, or finds it when it reads the store."""
        body = {"value": self._chance.choice(self._values), "description": ""}
        change = Put(config_ref(*self._config()), body, Action.UPDATE)
        if not self._world.replica.reader.is_down:
            await write_all(self._world.replica.storage, change)

    async def _turn_store(self) -> None:
        reader = self._world.replica.reader
        reader.is_down = not reader.is_down
        if reader.is_down:
            self._world.tail.mark_stale(Unavailable("the store is down"))
        else:
            # The commit tells the tail that the store is back. Otherwise it would pause before it reads the log.
            draft = ConfigDraft("test", "", "back", self._writes, "d")
            await self._world.configs.update(draft, self._author(), allow_missing=True)

    async def _read(self) -> None:
        method, request = self._chance.choice(
            [self._get_config, self._bulk_get, self._evaluate, self._batch_of_names, self._batch_of_requests]
        )()
        received, metadata = self._bytes_of(request), self._metadata()
        tail = self._world.tail
        position = tail.applied, tail.history, tail.stale_since
        quick = self._world.ask_quickly(method, received, metadata)
        try:
            general = await self._world.ask(method, received, metadata)
        except Aborted:
            general = None
        if position != (tail.applied, tail.history, tail.stale_since):
            return
        again = self._world.ask_quickly(method, received, metadata)
        for answer in (quick, again):
            if answer is not None:
                self.compared += 1
                assert general is not None, "the general path refuses what the quick one answers"
                assert_equal(method, answer, general, metadata)

    def _get_config(self) -> tuple[str, Any]:
        environment, service, key = self._config()
        return "GetConfig", config_pb2.GetConfigRequest(
            key=key, environment=environment, service_name=service, min_revision=self._min_revision()
        )

    def _bulk_get(self) -> tuple[str, Any]:
        environment, service, _ = self._config()
        keys = self._chance.choices(KEYS, k=self._chance.randint(0, 5))
        return "BulkGetConfigs", config_pb2.BulkGetConfigsRequest(
            keys=keys, environment=environment, service_name=service, min_revision=self._min_revision()
        )

    def _evaluate(self) -> tuple[str, Any]:
        return "EvaluateFlag", self._evaluation(self._min_revision())

    def _batch_of_names(self) -> tuple[str, Any]:
        names = self._chance.choices((*FLAGS, "unknown"), [9, 9, 9, 9, 1], k=self._chance.choice([0, 0, 1, 3]))
        return "BatchEvaluateFlags", flag_pb2.BatchEvaluateFlagsRequest(
            flag_names=names,
            environment=self._chance.choice(ENVIRONMENTS),
            user_id=self._chance.choice(USERS),
            attributes=self._attributes(),
            min_revision=self._min_revision(),
        )

    def _batch_of_requests(self) -> tuple[str, Any]:
        requests = [self._evaluation(0) for _ in range(self._chance.randint(1, 4))]
        user = "both" if self._chance.random() < 0.1 else ""
        return "BatchEvaluateFlags", flag_pb2.BatchEvaluateFlagsRequest(requests=requests, user_id=user)

    def _evaluation(self, min_revision: int) -> flag_pb2.EvaluateFlagRequest:
        return flag_pb2.EvaluateFlagRequest(
            flag_name=self._chance.choice((*FLAGS, "unknown")) if self._chance.random() < 0.3 else "f",
            environment=self._chance.choice((*ENVIRONMENTS, "bad name")) if self._chance.random() < 0.3 else "test",
            user_id=self._chance.choice(USERS),
            attributes=self._attributes(),
            explain=self._chance.random() < 0.1,
            min_revision=min_revision,
        )

    def _attributes(self) -> Struct | None:
        if self._chance.random() < 0.6:
            return None
        attributes = Struct()
        attributes.update({"a": self._chance.choice(["x", 1, True, None, 0.5]), "v": "1.2.2"})
        return attributes

    def _config(self) -> tuple[str, str, str]:
        return self._chance.choice(ENVIRONMENTS), self._chance.choice(SERVICES), self._chance.choice(KEYS)

    def _min_revision(self) -> int:
        applied = self._world.tail.applied
        return self._chance.choices([0, applied, max(applied - 1, 0), -1], [12, 4, 2, 1])[0]

    def _bytes_of(self, request: Any) -> bytes:
        encoded: bytes = request.SerializeToString()
        if self._chance.random() < 0.05:
            return encoded[: self._chance.randint(0, len(encoded))]
        return encoded

    def _metadata(self) -> RequestMetadata:
        tail = self._world.tail
        possible: list[tuple[str, str | bytes]] = [
            ("x-configsvc-rest", "1"),
            ("x-request-id", self._chance.choice(["mine", "with space", "", "x" * 200])),
            ("x-history", self._chance.choice([tail.history, f" {tail.history} ", "", "other"])),
            ("if-none-match", "*"),
            ("trace-bin", b"\x00\xff"),
        ]
        return tuple(pair for pair in possible if self._chance.random() < 0.2)

    def _author(self) -> Author:
        self._writes += 1
        return Author("tester", "", f"r{self._writes}", AT)


def assert_equal(method: str, quick: QuickAnswer, general: QuickAnswer, metadata: RequestMetadata) -> None:
    """The same message, metadata and details. A request id is new for each call, unless the caller sent one."""
    message = response_type(method)()
    is_rest = ("x-configsvc-rest", "1") in metadata
    if is_rest and (field := RESOURCE_FIELDS.get(path_of(method))):
        message = getattr(message, field)
    assert type(message).FromString(quick.message) == type(message).FromString(general.message)
    assert quick.details == general.details
    assert bool(quick.details) == is_rest
    ours, theirs = dict(quick.trailing_metadata), dict(general.trailing_metadata)
    assert len(quick.trailing_metadata) == len(general.trailing_metadata) == len(ours)
    if not is_rest:
        made, other = ours.pop("x-request-id"), theirs.pop("x-request-id")
        assert made == other or (len(made) == len(other) == 32 and made != other)
    assert ours == theirs


@pytest.mark.timeout(300)
def test_quick_answers_equal_those_of_the_general_path() -> None:
    compared = 0

    @settings(deadline=None)
    @given(
        st.integers(0, 2**32),
        st.sampled_from([1 << 24, 2_000]),
        st.lists(JSON, min_size=5, max_size=5),
        st.lists(flags(), min_size=3, max_size=3),
    )
    def check(seed: int, near_cache_bytes: int, values: Sequence[Any], definitions: Sequence[Any]) -> None:
        nonlocal compared
        compared += played(
            lambda folder: open_world(folder, near_cache_bytes),
            lambda world: Story(world, random.Random(seed), values, definitions),
        )

    check()
    assert compared > 50, "nothing was compared if no read was quick"
