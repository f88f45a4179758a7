"""EvaluateFlag and BatchEvaluateFlags from the flag sets in memory.

An evaluation is a pure function of the flag set and the context (sticky flags go the general way). So the answer to a
request is kept until the set changes. A new answer is joined from the part of the result that is the same for all users,
which is encoded once, and the user.
"""

from collections.abc import Mapping, Sequence

from configsvc_client.evaluation import Context
from configsvc_client.v1 import flag_pb2

from configsvc.app.flags.evaluator import Evaluator
from configsvc.rpc import convert
from configsvc.rpc.quick_reads import wire
from configsvc.rpc.quick_reads.answers import Find, Found
from configsvc.rpc.quick_reads.encoded_results import EncodedResults
from configsvc.rpc.quick_reads.positions import Position
from configsvc.rpc.quick_reads.request_memo import RequestMemo

_EVALUATION = wire.delimited_tag(flag_pb2.EvaluateFlagResponse.DESCRIPTOR, "evaluation")
_RESULTS = wire.delimited_tag(flag_pb2.BatchEvaluateFlagsResponse.DESCRIPTOR, "results")
_USER = wire.delimited_tag(flag_pb2.Evaluation.DESCRIPTOR, "user_id")

# The bounds of a batch that is answered at once. Below them, all results fit into one message in full detail.
BATCH_ITEMS, BATCH_BYTES = 5_000, 1 << 20
# A kept request's context takes about this many times the bytes of the request.
CONTEXT_FACTOR = 5


class _Query:
    """Flags (none: all) and the context that they are evaluated for, with the user as a field of each result."""

    __slots__ = ("context", "environment", "flag_names", "user")

    def __init__(self, environment: str, flag_names: Sequence[str], context: Context) -> None:
        self.environment = environment
        self.flag_names = flag_names
        self.context = context
        self.user = wire.text(_USER, context.user_id)


class _Request:
    """A request, and the answer to it. The answer is of this history, and of these flag sets: environment and revision."""

    __slots__ = ("history", "message", "min_revision", "queries", "sets")

    def __init__(self, queries: Sequence[_Query], min_revision: int) -> None:
        self.queries = queries
        self.min_revision = min_revision
        self.message = b""
        self.history = ""
        self.sets: Sequence[tuple[str, int]] = ()


class QuickFlags:
    """The quick reads of FlagService."""

    def __init__(self, evaluator: Evaluator, batch_size: int) -> None:
        self._evaluator = evaluator
        self._batch_size = batch_size
        self._results = EncodedResults()
        self._singles = RequestMemo[_Request]()
        self._batches = RequestMemo[_Request]()

    @property
    def methods(self) -> Mapping[str, Find]:
        """What answers each method."""
        return {"EvaluateFlag": self.evaluate, "BatchEvaluateFlags": self.batch}

    def evaluate(self, received: bytes, position: Position) -> Found | None:
        """EvaluateFlag."""
        request = self._singles.get(received)
        if request is None or not self._is_current(request, position):
            request = request or _single(received)
            if not self._answer(request, position, _EVALUATION):
                return None
            self._singles.put(received, request, CONTEXT_FACTOR * len(received) + len(request.message))
        if not 0 <= request.min_revision <= position.revision:
            return None
        message, revision = request.message, request.sets[0][1]
        return message, max(revision, position.revision), "", wire.contents_start(message)

    def batch(self, received: bytes, position: Position) -> Found | None:
        """BatchEvaluateFlags."""
        request = self._batches.get(received)
        if request is None or not self._is_current(request, position):
            request = request or _batch(received, self._batch_size)
            if not self._answer(request, position, _RESULTS):
                return None
            self._batches.put(received, request, CONTEXT_FACTOR * len(received) + len(request.message))
        if not 0 <= request.min_revision <= position.revision:
            return None
        if any(revision > position.revision for _, revision in request.sets):
            # A set was read ahead of the log. The general path says which revision the answer is of.
            return None
        return request.message, position.revision, "", 0

    def _is_current(self, request: _Request, position: Position) -> bool:
        if request.history != position.history:
            return False
        for environment, revision in request.sets:
            flag_set = self._evaluator.flag_set(environment)
            if flag_set is None or flag_set.revision != revision:
                return False
        return True

    def _answer(self, request: _Request, position: Position, tag: bytes) -> bool:
        """Evaluates a request. False if the general path must answer it."""
        sets: dict[str, int] = {}
        results: list[bytes] = []
        for query in request.queries:
            flag_set = self._evaluator.peek(query.environment, query.flag_names, query.context)
            if flag_set is None:
                return False
            sets[query.environment] = flag_set.revision
            names = query.flag_names or flag_set.names
            if len(names) > BATCH_ITEMS:
                return False
            for name in names:
                evaluation = flag_set.evaluate(name, query.context)
                results.append(wire.delimited(tag, self._results.get(evaluation) + query.user))
        request.message = b"".join(results)
        request.sets, request.history = tuple(sets.items()), position.history
        return bool(request.queries) and len(request.message) <= BATCH_BYTES


def _single(received: bytes) -> _Request:
    message = flag_pb2.EvaluateFlagRequest.FromString(received)
    queries = () if message.explain else (_query(message, (message.flag_name,)),)
    return _Request(queries, message.min_revision)


def _batch(received: bytes, batch_size: int) -> _Request:
    message = flag_pb2.BatchEvaluateFlagsRequest.FromString(received)
    if not message.requests:
        names = tuple(message.flag_names)
        return _Request(() if message.explain else (_query(message, names),), message.min_revision)
    has_only_requests = {field.name for field, _ in message.ListFields()} <= {"requests", "min_revision"}
    if not has_only_requests or len(message.requests) > batch_size:
        return _Request((), 0)
    if any(one.explain or one.min_revision for one in message.requests):
        return _Request((), 0)
    return _Request([_query(one, (one.flag_name,)) for one in message.requests], message.min_revision)


def _query(
    message: flag_pb2.EvaluateFlagRequest | flag_pb2.BatchEvaluateFlagsRequest, flag_names: Sequence[str]
) -> _Query:
    return _Query(message.environment, flag_names, convert.context(message))
