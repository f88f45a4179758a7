"""Which state of the log a caller needs, and which one an answer is from."""

from typing import Any

from configsvc.app.changelog.tail import LogTail
from configsvc.errors import InvalidInput, Unavailable
from configsvc.rpc.context import TextMetadata
from configsvc.rpc.interceptors.call import HEALTH_SERVICES, LIBRARY_SERVICES, Call, Handler, Method
from configsvc.rpc.requests import request_metadata

# The part of the deadline that is kept for the read itself after a wait for `min_revision`.
READ_SECONDS = 0.1


class Consistency:
    """Compares what unary calls need with what this replica has applied."""

    def __init__(self, tail: LogTail) -> None:
        self._tail = tail

    def __call__(self, method: Method, handler: Handler) -> Handler:
        """Refuses a call that expects another history of the log (`x-history`), and waits for `min_revision`.

        A read may come from a copy while the store is down. If the copy is older than `min_revision`, the call fails.
        """
        checks_history = not method.path.startswith((*HEALTH_SERVICES, LIBRARY_SERVICES))

        async def run(call: Call, request: Any) -> Any:
            if checks_history:
                await self._check_history(request_metadata.history(call.request_metadata))
            min_revision = getattr(request, "min_revision", 0)
            if min_revision:
                await self._wait_for(min_revision, call.timeout_seconds)
            response = await handler(call, request)
            if min_revision and response.revision < min_revision:
                raise Unavailable(
                    f"the store is down, and the copy that is left is of revision {response.revision}, not {min_revision}",
                    "REVISION_NOT_REACHED",
                    {"applied": str(response.revision), "required": str(min_revision)},
                )
            return response

        return run

    def staleness(self) -> TextMetadata:
        """The state that answers of this replica are from: revision and history, and since when it may be stale."""
        position = (("x-revision", str(self._tail.applied)), ("x-history", self._tail.history))
        stale_since = self._tail.stale_since
        if stale_since is None:
            return position
        return (*position, ("x-stale", "true"), ("x-stale-since", stale_since.isoformat()))

    async def _check_history(self, expected: str) -> None:
        if not expected or expected == self._tail.history:
            return
        # The caller may have it from another replica, which has seen a restore before this one.
        await self._tail.catch_up()
        if expected != self._tail.history:
            raise self._tail.history_changed()

    async def _wait_for(self, min_revision: int, timeout_seconds: float) -> None:
        if min_revision < 0:
            raise InvalidInput.of("min_revision", f"must not be negative; it is {min_revision}")
        if min_revision > self._tail.applied:
            await self._tail.wait_for(min_revision, max(timeout_seconds - READ_SECONDS, 0))
