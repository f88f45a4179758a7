"""Errors become statuses, by the one table (`rpc/status.py`)."""

from collections.abc import Callable

import grpc

from configsvc.rpc.context import TextMetadata
from configsvc.rpc.interceptors.call import Call, Handler, Method, Middleware
from configsvc.rpc.status import abort


def errors_to_status(staleness: Callable[[], TextMetadata]) -> Middleware:
    """Ends a call that fails with the status of its error, and with the request id and `staleness` in the trailers."""

    def middleware(method: Method, handler: Handler) -> Handler:
        async def run(call: Call, request: object) -> object:
            try:
                return await handler(call, request)
            except grpc.aio.AbortError:
                # A library's servicer has ended the call with a status of its own.
                raise
            except Exception as error:
                # Headers would begin an HTTP answer with status 200 for a watch over REST that can't begin.
                await abort(call.context, error, ("x-request-id", call.request_id), *staleness())

        return run

    return middleware
