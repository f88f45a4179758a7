"""The errors of calls, taken apart."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

T = TypeVar("T")


@dataclass(frozen=True)
class Refusal:
    """The error of a call."""

    code: grpc.StatusCode
    message: str
    details: list[Any]
    trailing: dict[str, Any]

    def all(self, kind: type[T]) -> list[T]:
        """The details of this type."""
        messages = []
        for detail in self.details:
            message: Any = kind()
            if detail.Unpack(message):
                messages.append(message)
        return messages

    @property
    def info(self) -> Any:
        """The ErrorInfo: there is exactly one."""
        (info,) = self.all(error_details_pb2.ErrorInfo)
        return info

    @property
    def fields(self) -> list[str]:
        """The fields that a BadRequest names."""
        (bad,) = self.all(error_details_pb2.BadRequest)
        return [violation.field for violation in bad.field_violations]


def refusal(error: Any) -> Refusal:
    """The `Refusal` of an RpcError."""
    status = rpc_status.from_call(error)
    trailing = dict(error.trailing_metadata() or ())
    return Refusal(error.code(), error.details(), list(status.details) if status else [], trailing)


def refused(call: Callable[[], Any]) -> Refusal:
    """The error of a call that must fail. A stream is read until it fails."""

    def read_to_the_end() -> None:
        response = call()
        for _ in response if isinstance(response, Iterator) else ():
            pass

    with pytest.raises(grpc.RpcError) as raised:
        read_to_the_end()
    return refusal(raised.value)
