"""Many writes of one environment's configurations in one revision, all or none."""

from collections.abc import Sequence

from configsvc.domain.batches import Step, all_or_none
from configsvc.domain.config_writes import decision
from configsvc.domain.configs import ConfigOperation
from configsvc.domain.fields import Fields
from configsvc.domain.fingerprints import fingerprint
from configsvc.domain.records import Author, Ref, Write
from configsvc.domain.sizes import ANSWER_BYTES

# The most that an operation takes in the answer beside its names and its author: numbers, an etag and times.
OPERATION_BYTES = 150


def check(fields: Fields, environment: str, operations: Sequence[ConfigOperation], author: Author) -> None:
    """Refuses what can't be accepted of any operation, two writes of one key, and a batch without room in an answer."""
    fields.author(author)
    fields.environment(environment)
    fields.count("operations", len(operations), fields.limits.batch_size, least=1)
    checked = operations[: fields.limits.batch_size]
    for index, operation in enumerate(checked):
        operation.check(fields.inside(f"operations[{index}]"))
    seen: set[Ref] = set()
    for index, operation in enumerate(checked):
        if operation.draft.ref in seen:
            fields.refuse(f"operations[{index}].key", "must appear once in a batch")
        seen.add(operation.draft.ref)
    if (size := _answer_bytes(operations, author)) > ANSWER_BYTES:
        fields.refuse("operations", f"must have keys that fit into an answer of {ANSWER_BYTES} bytes; it has {size}")


def write_of(environment: str, operations: Sequence[ConfigOperation], author: Author) -> Write:
    """The one write of all operations."""
    steps = [
        Step(f"operations[{index}]", operation.draft.ref, decision(operation))
        for index, operation in enumerate(operations)
    ]
    contents = [operation.content for operation in operations]
    reads = tuple(step.ref for step in steps)
    return Write(author, reads, all_or_none(steps), fingerprint(author, "batch", environment, contents))


def _answer_bytes(operations: Sequence[ConfigOperation], author: Author) -> int:
    """The most that the answer takes without values."""
    names = [author.actor] * len(operations)
    for operation in operations:
        names += (operation.draft.environment, operation.draft.service_name, operation.draft.key)
    return sum(len(name.encode("utf-8", "surrogatepass")) for name in names) + OPERATION_BYTES * len(operations)
