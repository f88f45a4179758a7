"""A `configsvc serve` process, its log, and what refusals say."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import pytest
from configsvc_client.v1 import config_pb2, health_pb2, health_pb2_grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value
from google.rpc import error_details_pb2
from grpc_status import rpc_status

# Reached only where a test fails.
PATIENCE_SECONDS = 30.0

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str) -> T:
    """What the look returns, once that is something."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:g} s: {what} ({found!r})"
        time.sleep(0.02)


class Running:
    """One server process on embedded defaults."""

    def __init__(self, address: str, directory: Path, settings: Mapping[str, str]) -> None:
        self.address = address
        self.log = directory / "server.log"
        self.database = directory / "configsvc.db"
        inherited = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
        self._environment = {**inherited, "SQLITE_PATH": str(self.database), **settings}
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "configsvc", "serve", "--listen", self.address],
                env=self._environment,
                cwd=self._directory,
                stdout=output,
                stderr=output,
            )

    def channel(self, **options: int) -> grpc.Channel:
        return grpc.insecure_channel(self.address, [(f"grpc.{name}", value) for name, value in options.items()])

    def answers(self) -> None:
        """Returns when it does."""
        with self.channel() as channel:
            health_pb2_grpc.HealthServiceStub(channel).GetLiveness(
                health_pb2.GetLivenessRequest(), timeout=PATIENCE_SECONDS, wait_for_ready=True
            )

    def peak_bytes(self) -> int:
        """The most memory that it had (VmHWM of proc(5))."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def terminate(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """Its exit status."""
        assert self._process is not None
        return self._process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
            self.ended()

    def lines(self) -> list[dict[str, Any]]:
        """Its log. A line that is no JSON fails the test."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def calls(self, request_id: str) -> list[dict[str, Any]]:
        """The access log's lines of one call, once there is one."""
        return eventually(
            lambda: [line for line in self.lines() if line["event"] == "call" and line.get("request_id") == request_id],
            f"the call {request_id} is in the log",
        )


@dataclass(frozen=True)
class Refusal:
    """A call's error, taken apart."""

    code: grpc.StatusCode
    message: str
    details: list[Any]
    trailing: dict[str, Any]

    def all(self, kind: type[T]) -> list[T]:
        """The details of a type."""
        found = []
        for detail in self.details:
            message: Any = kind()
            if detail.Unpack(message):
                found.append(message)
        return found

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
    """What an RpcError says."""
    status = rpc_status.from_call(error)
    trailing = dict(error.trailing_metadata() or ())
    return Refusal(error.code(), error.details(), list(status.details) if status else [], trailing)


def refused(call: Callable[[], Any]) -> Refusal:
    """The refusal of a call; a stream is read until it is refused."""

    def read_to_the_end() -> None:
        answer = call()
        for _ in answer if isinstance(answer, Iterator) else ():
            pass

    with pytest.raises(grpc.RpcError) as raised:
        read_to_the_end()
    return refusal(raised.value)


class Stream:
    """The messages of a stream, as they come, read in a thread of its own."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._messages: list[Any] = []
        self._taken = 0
        self._error: Any = None
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.call.cancel()
        self._thread.join(PATIENCE_SECONDS)

    def _run(self) -> None:
        try:
            for message in self.call:
                with self._news:
                    self._messages.append(message)
                    self._news.notify_all()
        except grpc.RpcError as error:
            self._error = error
        with self._news:
            self._ended = True
            self._news.notify_all()

    def take(self) -> Any:
        """The next message. Fails where the stream ends, or none comes."""
        with self._news:
            self._news.wait_for(lambda: self._ended or len(self._messages) > self._taken, PATIENCE_SECONDS)
            assert len(self._messages) > self._taken, f"no message came: {self._error}"
            self._taken += 1
            return self._messages[self._taken - 1]

    def take_until(self, name: str) -> list[Any]:
        """The messages up to and with the first that has this field."""
        found = [self.take()]
        while not found[-1].HasField(name):
            found.append(self.take())
        return found

    def end(self) -> tuple[list[Any], Refusal | None]:
        """What still comes until the stream ends, and how it does (None: well)."""
        self._thread.join(PATIENCE_SECONDS)
        assert self._ended, "the stream goes on"
        rest = self._messages[self._taken :]
        return rest, refusal(self._error) if self._error is not None else None


def value(json_value: Any) -> Value:
    """A JSON value as a message."""
    return ParseDict(json_value, Value())


def put(stub: Any, environment: str, key: str, json_value: Any, **more: Any) -> Any:
    """Writes a configuration, whether it is there or not."""
    return stub.UpdateConfig(
        config_pb2.UpdateConfigRequest(
            key=key, environment=environment, value=value(json_value), allow_missing=True, **more
        ),
        timeout=PATIENCE_SECONDS,
    )
