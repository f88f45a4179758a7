"""Checks the prerequisites of flags on the state after a write, so that flags that require each other's changes can be
written together.
"""

from collections.abc import Iterator, Mapping, Sequence

from configsvc_client.evaluation import Flag, InvalidFlag, check_prerequisites, find_cycle

from configsvc.domain.flags import invalid_input, member
from configsvc.domain.records import Decision, JsonObject, Kind, Mutation, Put, Ref, Scope, View
from configsvc.domain.resources import error_metadata
from configsvc.errors import FailedPrecondition, InvalidInput, ServiceError

_Bodies = Mapping[str, JsonObject]


def with_prerequisite_check(decide: Decision) -> Decision:
    """A decision on flags that also raises what is wrong with the prerequisites after it.

    The view must have every environment that flags are written in (`Scope`). Raises `InvalidInput`, and `FailedPrecondition`
    (reason `FLAG_IS_PREREQUISITE`) if a flag is deleted that another one requires.
    """

    def decide_and_check(view: View) -> Sequence[Mutation]:
        mutations = decide(view)
        for _, error in prerequisite_errors(view, mutations):
            raise error
        return mutations

    return decide_and_check


def prerequisite_errors(view: View, mutations: Sequence[Mutation]) -> Iterator[tuple[Ref, ServiceError]]:
    """What is wrong with the prerequisites after these mutations, each with the ref of the mutation that causes it."""
    flag_mutations = [mutation for mutation in mutations if mutation.ref.kind is Kind.FLAG]
    for environment in dict.fromkeys(mutation.ref.environment for mutation in flag_mutations):
        mutations_here = {m.ref: m for m in flag_mutations if m.ref.environment == environment}
        puts = {ref.key: m.body for ref, m in mutations_here.items() if isinstance(m, Put)}
        deleted = {ref.key: ref for ref, m in mutations_here.items() if not isinstance(m, Put)}
        if not deleted and not any(member(body, "prerequisites") for body in puts.values()):
            continue
        before = {record.ref.key: record.body for record in view.of(Scope(Kind.FLAG, environment))}
        after = {name: body for name, body in {**before, **puts}.items() if name not in deleted}
        yield from _still_required(deleted, after)
        for name, error in _missing_or_cyclic(puts, after):
            yield Ref(Kind.FLAG, environment, "", name), error


def _still_required(deleted: Mapping[str, Ref], after: _Bodies) -> Iterator[tuple[Ref, ServiceError]]:
    for dependent, body in after.items() if deleted else ():
        for required in member(body, "prerequisites"):
            if (ref := deleted.get(required["flag_name"])) is not None:
                yield (
                    ref,
                    FailedPrecondition(
                        f"flag '{ref.key}' is a prerequisite of flag '{dependent}'",
                        "FLAG_IS_PREREQUISITE",
                        {**error_metadata(ref), "dependent": dependent},
                    ),
                )


def _missing_or_cyclic(puts: _Bodies, after: _Bodies) -> Iterator[tuple[str, ServiceError]]:
    dependents = [name for name, body in puts.items() if member(body, "prerequisites")]
    if not dependents:
        return
    required_names = {required["flag_name"] for name in dependents for required in member(puts[name], "prerequisites")}
    # Only flags that the check needs are read: those that others require, and those that require others.
    flags = {
        name: Flag.from_stored(body)
        for name, body in after.items()
        if name in required_names or member(body, "prerequisites")
    }
    for name in dependents:
        try:
            check_prerequisites(flags[name], flags)
        except InvalidFlag as error:
            yield name, invalid_input(error)
    if cycle := find_cycle(flags.values()):
        # There was none before, so one of the written flags is in it.
        culprit = next((name for name in cycle if name in puts), dependents[0])
        path = " -> ".join(cycle)
        yield culprit, InvalidInput.of("prerequisites", f"must not form a cycle: {path}", "PREREQUISITE_CYCLE")
