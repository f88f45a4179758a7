"""A topic in memory, for tests of the relay without an engine. It keeps the port's promises: see tests/conformance/bus.

`limit_bytes`: the largest event that it takes; 0: no limit. `away`: it takes nothing. `tear_after`: it takes this many more
events, and then it is away. `error`: what `publish` raises, which an adapter never does.
"""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from configsvc.bus.port import Receipt
from configsvc.domain.events import Delivery, EventForm, Refusal, RefusalReason, event_key, event_of, forms_of
from configsvc.domain.records import Action, Change, Kind, Ref
from configsvc.errors import Unavailable

AT = datetime(2025, 1, 1, tzinfo=UTC)


def change(
    revision: int,
    value: Any,
    *,
    ordinal: int = 0,
    key: str = "key",
    kind: Kind = Kind.CONFIG,
    reason: str = "",
    action: Action = Action.UPDATE,
) -> Change:
    """A change of the log. A removal has no value."""
    ref = Ref(kind, "" if kind is Kind.INSTANCE else "test", "", key)
    body = None if action in (Action.DELETE, Action.EXPIRE) else {"value": value}
    return Change(revision, ordinal, ref, action, revision, None, body, 0, AT, "tester", reason, "", AT)


class MemoryPublisher:
    def __init__(self, limit_bytes: int = 0, batch_changes: int = 500) -> None:
        self.limit_bytes = limit_bytes
        self.batch_changes = batch_changes
        self.away = False
        self.tear_after: int | None = None
        self.events: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.calls = 0
        self.error: Exception | None = None
        # If it is not None, calls wait for it, as for a slow broker.
        self.gate: asyncio.Event | None = None

    async def publish(self, changes: Sequence[Change]) -> Receipt:
        self.calls += 1
        if self.error is not None:
            raise self.error
        if self.gate is not None:
            await self.gate.wait()
        deliveries: list[Delivery] = []
        for each in changes[: self.batch_changes]:
            if self.tear_after == 0:
                self.away, self.tear_after = True, None
            if self.away:
                return Receipt(deliveries, Unavailable("the topic is away"))
            if self.tear_after:
                self.tear_after -= 1
            deliveries.append(self._deliver(each))
        return Receipt(deliveries)

    def _deliver(self, each: Change) -> Delivery:
        refusal: Refusal | None = None
        whole_bytes = 0
        for form in forms_of(each):
            if form is EventForm.SKIPPED:
                break
            event = event_of(each, form, refusal)
            size_bytes = len(json.dumps(event).encode()) + len(event_key(each))
            whole_bytes = whole_bytes or size_bytes
            if not self.limit_bytes or size_bytes <= self.limit_bytes:
                self.events.append(event)
                self.keys.append(event_key(each))
                break
            refusal = Refusal(RefusalReason.TOO_LARGE, whole_bytes, self.limit_bytes)
        return Delivery(each, form, whole_bytes, refusal)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""
