"""One run: random requests over REST and gRPC through the gateway, and a neighbour that must not be affected.

All random choices come from one seed. Each lane has its own source, so its requests don't depend on the others' speed.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from configsvc_client.v1 import config_pb2, config_pb2_grpc, flag_pb2, flag_pb2_grpc

from tests.fuzz.http1 import STREAM_SECONDS, Connection
from tests.fuzz.judge import judge_rest, judge_rpc, reason_of
from tests.fuzz.rest import RestRequests
from tests.fuzz.routes import routes, rpcs
from tests.fuzz.rpc import Call, Calls

REST_LANES, RPC_LANES = 6, 3
# Longer than the server's default deadline: a call without an answer by then hangs.
HANG_SECONDS = 20.0
# The deadline of callers that give up on purpose.
DEADLINE_SECONDS = 0.5
NEIGHBOUR_PAUSE_SECONDS = 0.02
NEIGHBOUR_SECONDS = 10.0
NEIGHBOUR = "neighbour"
# More problems add no information.
MOST_VIOLATIONS = 50


@dataclass
class Outcome:
    """The numbers of answers by code, and the problems."""

    seed: int
    sent: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    neighbour_calls: int = 0
    neighbour_worst_seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def note(self, code: object, problem: str, what: object) -> None:
        """Counts one answer and records its problem, if any."""
        self.sent += 1
        self.codes[str(code)] = self.codes.get(str(code), 0) + 1
        if problem:
            self.violations.append(f"{problem}\n    for {what}")


async def run_fuzz(port: int, *, requests: int, seed: int) -> Outcome:
    """Sends this many requests to a service that has just started."""
    outcome = Outcome(seed)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        neighbour = await _Neighbour.settled(channel, port, outcome)
        watching = asyncio.create_task(neighbour.watch())
        each = requests // (REST_LANES + RPC_LANES) + 1
        lanes = [_rest_lane(port, random.Random(f"{seed} rest {lane}"), each, outcome) for lane in range(REST_LANES)]
        lanes += [_rpc_lane(port, random.Random(f"{seed} rpc {lane}"), each, outcome) for lane in range(RPC_LANES)]
        try:
            await asyncio.gather(*lanes)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await neighbour.check()
        await neighbour.close()
    return outcome


async def _rest_lane(port: int, rng: random.Random, requests: int, outcome: Outcome) -> None:
    made, connection = RestRequests(rng, routes()), Connection(port)
    for _ in range(requests):
        if len(outcome.violations) >= MOST_VIOLATIONS:
            return
        request = made.next()
        try:
            answer = await connection.send(request.data, is_head=request.is_head, streams=request.streams)
        except TimeoutError:
            outcome.note("hang", "no answer: the call hangs", request)
            await connection.close()
        else:
            outcome.note(f"{answer.status} {reason_of(answer)}".strip(), judge_rest(request, answer), request)
    await connection.close()


async def _rpc_lane(port: int, rng: random.Random, requests: int, outcome: Outcome) -> None:
    made = Calls(rng, rpcs())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(requests):
            if len(outcome.violations) >= MOST_VIOLATIONS:
                return
            call = made.next()
            deadline = DEADLINE_SECONDS if rng.randrange(5) == 0 else None
            try:
                async with asyncio.timeout(HANG_SECONDS):
                    await _called(channel, call, deadline)
            except TimeoutError:
                outcome.note("hang", "no answer: the call hangs", call)
            except grpc.RpcError as error:
                code: Any = error
                gave_up = deadline is not None and code.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                outcome.note(code.code().name, "" if gave_up else judge_rpc(error), call)
            else:
                outcome.note("OK", "", call)


async def _called(channel: grpc.aio.Channel, call: Call, deadline_seconds: float | None) -> None:
    rpc, options = call.rpc, {"metadata": call.metadata, "timeout": deadline_seconds}
    if not rpc.streams_answers:
        await channel.unary_unary(rpc.path)(call.messages[0], **options)  # type: ignore[arg-type]
        return

    async def said() -> AsyncIterator[bytes]:
        for message in call.messages:
            yield message

    streamed: Any
    if rpc.streams_requests:
        streamed = channel.stream_stream(rpc.path)(said(), **options)  # type: ignore[arg-type]
    else:
        streamed = channel.unary_stream(rpc.path)(call.messages[0], **options)  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(STREAM_SECONDS):
            async for _ in streamed:
                pass
    except TimeoutError:
        streamed.cancel()


class _Neighbour:
    """A caller with its own resources, which must always get the same answers."""

    def __init__(self, channel: grpc.aio.Channel, port: int, outcome: Outcome) -> None:
        self._configs = config_pb2_grpc.ConfigServiceStub(channel)
        self._flags = flag_pb2_grpc.FlagServiceStub(channel)
        self._connection = Connection(port)
        self._outcome = outcome

    @classmethod
    async def settled(cls, channel: grpc.aio.Channel, port: int, outcome: Outcome) -> "_Neighbour":
        """A neighbour whose configuration and flag exist."""
        neighbour = cls(channel, port, outcome)
        await neighbour._configs.CreateConfig(
            config_pb2.CreateConfigRequest(key="key", environment=NEIGHBOUR, value={"string_value": "mine"})  # type: ignore[arg-type]
        )
        await neighbour._flags.CreateFlag(
            flag_pb2.CreateFlagRequest(name="flag", environment=NEIGHBOUR, enabled=True, targeted_users=["u1"])
        )
        return neighbour

    async def watch(self) -> None:
        """Checks its answers repeatedly."""
        while True:
            await self.check()
            await asyncio.sleep(NEIGHBOUR_PAUSE_SECONDS)

    async def check(self) -> None:
        """Asks for its configuration, its evaluation and over REST, with deadlines, on connections that others also use."""
        began = time.perf_counter()
        try:
            await self._ask()
        except (grpc.RpcError, TimeoutError, AssertionError) as error:
            self._outcome.violations.append(f"the neighbour was affected: {error!r}")
        self._outcome.neighbour_calls += 1
        took = time.perf_counter() - began
        self._outcome.neighbour_worst_seconds = max(self._outcome.neighbour_worst_seconds, took)

    async def close(self) -> None:
        """Closes its connection."""
        await self._connection.close()

    async def _ask(self) -> None:
        read = await self._configs.GetConfig(
            config_pb2.GetConfigRequest(key="key", environment=NEIGHBOUR), timeout=NEIGHBOUR_SECONDS
        )
        assert read.config.value.string_value == "mine", read
        evaluated = await self._flags.EvaluateFlag(
            flag_pb2.EvaluateFlagRequest(flag_name="flag", environment=NEIGHBOUR, user_id="u1"),
            timeout=NEIGHBOUR_SECONDS,
        )
        assert (evaluated.evaluation.variant, evaluated.evaluation.reason) == ("on", "TARGETING_MATCH"), evaluated
        request = f"GET /api/v1/config/key?environment={NEIGHBOUR} HTTP/1.1\r\nhost: localhost\r\n\r\n"
        answer = await self._connection.send(request.encode())
        assert answer.status == 200, answer
        assert json.loads(answer.body)["value"] == "mine", answer


def report(outcome: Outcome, seconds: float) -> str:
    """The numbers and problems of a run, for people."""
    codes = ", ".join(f"{count} {code}" for code, count in sorted(outcome.codes.items(), key=lambda c: -c[1]))
    lines = [
        f"fuzz: seed {outcome.seed}, {outcome.sent} requests in {seconds:.0f} s, {len(outcome.violations)} violations",
        f"  answers: {codes}",
        f"  the neighbour asked {outcome.neighbour_calls} times; its slowest round took"
        f" {outcome.neighbour_worst_seconds:.2f} s",
        *(f"  - {violation}" for violation in outcome.violations[:MOST_VIOLATIONS]),
    ]
    return "\n".join(lines)
