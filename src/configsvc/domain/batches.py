"""Several writes as one: all or none, in one revision. An error tells which of them it is about."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from configsvc_client.evaluation import Violation

from configsvc.domain.prerequisites import prerequisite_errors
from configsvc.domain.records import Decision, Mutation, Put, Ref, View
from configsvc.domain.sizes import check_sendable, message_bytes, sending_problem
from configsvc.errors import InvalidInput, ServiceError


@dataclass(frozen=True, slots=True)
class Step:
    """One write of a batch. `path`: its place in the request, such as `operations[1].update_flag`."""

    path: str
    ref: Ref
    decide: Decision


def all_or_none(steps: Sequence[Step]) -> Decision:
    """All steps, each decided on the state before the batch. At most one step may be about a ref.

    The prerequisites of flags are checked on the state after all steps. Raises what the first step that fails raises, with
    its path (`errors_at`).
    """
    paths = {step.ref: step.path for step in steps}

    def decide(view: View) -> Sequence[Mutation]:
        mutations: list[Mutation] = []
        for step in steps:
            with errors_at(step.path):
                decided = step.decide(view)
                for mutation in decided:
                    _check_size(view, mutation)
                mutations.extend(decided)
        for ref, error in prerequisite_errors(view, mutations):
            with errors_at(paths[ref]):
                raise error
        return mutations

    return decide


def _check_size(view: View, mutation: Mutation) -> None:
    """The same check as the store's, made here because the error needs the path. A record that was too large before may still
    change."""
    if isinstance(mutation, Put) and sending_problem(mutation.body):
        current = view.get(mutation.ref)
        if current is None or message_bytes(current.body) < message_bytes(mutation.body):
            check_sendable(mutation.ref.kind, mutation.body)


@contextmanager
def errors_at(path: str) -> Iterator[None]:
    """Errors of the block are about the part of the request at `path`.

    They name fields by their whole path, and `operation` in their metadata is the first segment of the path.
    """
    operation = path.partition(".")[0]
    try:
        yield
    except InvalidInput as error:
        found = InvalidInput(
            (Violation(f"{path}.{violation.field}", violation.description) for violation in error.violations),
            error.reason,
        )
        found.metadata = {**error.metadata, "operation": operation}
        raise found from error
    except ServiceError as error:
        error.metadata = {**error.metadata, "operation": operation}
        error.message = f"{operation}: {error.message}"
        raise
