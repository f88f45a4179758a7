"""When a call ends at the latest: by a deadline, or when the server stops."""

import asyncio

import grpc

from configsvc.errors import DeadlineExceeded, Unavailable
from configsvc.rpc.interceptors.call import LIBRARY_SERVICES, Call, Handler, Method, Middleware


def deadline(default_seconds: float) -> Middleware:
    """Ends a unary call at the caller's deadline, or after `default_seconds` if the caller set none."""

    def middleware(method: Method, handler: Handler) -> Handler:
        async def run(call: Call, request: object) -> object:
            remaining = call.context.time_remaining()
            seconds = call.timeout_seconds = default_seconds if remaining is None else remaining
            scope = asyncio.timeout(seconds)
            try:
                async with scope:
                    return await handler(call, request)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                if not scope.expired():
                    raise
                raise DeadlineExceeded(
                    f"not done within {seconds:g} s; a write may have happened all the same"
                ) from error

        return run

    return middleware


class LibraryStreams:
    """The streams of gRPC's own services. They don't know when the server stops, and would use up its grace period.

    The streams of this service end by themselves (`WatchHub.shutdown`, `Directory.shutdown`).
    """

    def __init__(self) -> None:
        self._scopes: set[asyncio.Timeout] = set()
        self._has_ended = False

    def __call__(self, method: Method, handler: Handler) -> Handler:
        if not method.path.startswith(LIBRARY_SERVICES):
            return handler

        async def run(call: Call, request: object) -> None:
            scope = asyncio.timeout(0 if self._has_ended else None)
            self._scopes.add(scope)
            try:
                async with scope:
                    await handler(call, request)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                if not scope.expired():
                    raise
                raise Unavailable("this replica is shutting down", "SHUTTING_DOWN") from error
            finally:
                self._scopes.discard(scope)

        return run

    def end(self) -> None:
        """Ends all of them, and those that come later."""
        self._has_ended = True
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(0)
