"""Checks the prerequisites of flags on the state after a write, so that flags that require each other's changes can be
written together.

The cost is that of the written flags, not of their environment: the view is asked for the flags along the edges, from the
written flags on, and for the flags that require a deleted one.
"""

from collections.abc import Iterator, Mapping, Sequence

from configsvc_client.evaluation import Flag, InvalidFlag, check_prerequisites, find_cycle

from configsvc.domain.flags import flag_ref, invalid_input, member
from configsvc.domain.records import Decision, Dependents, JsonObject, Kind, Mutation, Put, Ref, Scope, View
from configsvc.domain.resources import error_metadata
from configsvc.errors import FailedPrecondition, InvalidInput, ServiceError

# Levels of prerequisites that are read one after another; each runs the decision again. A deeper chain is legal, but rare:
# then the environment is read as a whole.
WALKED_LEVELS = 16


def with_prerequisite_check(decide: Decision) -> Decision:
    """A decision on flags that also raises what is wrong with the prerequisites after it.

    Raises `InvalidInput`, and `FailedPrecondition` (reason `FLAG_IS_PREREQUISITE`) if a flag is deleted that another one
    requires.
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
        after = _EnvironmentAfter(view, environment, flag_mutations)
        yield from _still_required(after)
        for name, error in _missing_or_cyclic(after):
            yield flag_ref(environment, name), error


class _EnvironmentAfter:
    """The flags of one environment as they are after the mutations; those that were not written are read when needed."""

    def __init__(self, view: View, environment: str, mutations: Sequence[Mutation]) -> None:
        here = [mutation for mutation in mutations if mutation.ref.environment == environment]
        self._view = view
        self._environment = environment
        self.puts = {mutation.ref.key: mutation.body for mutation in here if isinstance(mutation, Put)}
        self.deleted = {mutation.ref.key: mutation.ref for mutation in here if not isinstance(mutation, Put)}

    def bodies_that_may_require_deleted(self) -> Mapping[str, JsonObject]:
        """At least the flags that require a deleted one, by name."""
        if not self.deleted:
            return {}
        dependents = [Dependents(Kind.FLAG, self._environment, name) for name in self.deleted]
        self._view.require(*dependents)
        before = {record.ref.key: record.body for each in dependents for record in self._view.of(each)}
        return {name: body for name, body in {**before, **self.puts}.items() if name not in self.deleted}

    def bodies_along_edges(self, names: Sequence[str]) -> Mapping[str, JsonObject]:
        """These flags and all that they require, directly or not, by name; without those that do not exist."""
        bodies: dict[str, JsonObject | None] = {}
        level, depth = list(names), 0
        while level:
            self._require(level, depth)
            bodies.update({name: self._body(name) for name in level})
            required = (required_by(body) for name in level if (body := bodies[name]) is not None)
            level = [name for name in dict.fromkeys(name for names in required for name in names) if name not in bodies]
            depth += 1
        return {name: body for name, body in bodies.items() if body is not None}

    def _require(self, names: Sequence[str], depth: int) -> None:
        unwritten = [name for name in names if name not in self.puts and name not in self.deleted]
        if not unwritten:
            return
        if depth <= WALKED_LEVELS:
            self._view.require(*(flag_ref(self._environment, name) for name in unwritten))
        else:
            self._view.require(Scope(Kind.FLAG, self._environment))

    def _body(self, name: str) -> JsonObject | None:
        if name in self.deleted:
            return None
        if (body := self.puts.get(name)) is not None:
            return body
        record = self._view.get(flag_ref(self._environment, name))
        return record.body if record else None


def required_by(body: JsonObject) -> list[str]:
    """The names of the flags that a flag requires."""
    return [required["flag_name"] for required in member(body, "prerequisites")]


def _still_required(after: _EnvironmentAfter) -> Iterator[tuple[Ref, ServiceError]]:
    for dependent, body in after.bodies_that_may_require_deleted().items():
        for name in required_by(body):
            if (ref := after.deleted.get(name)) is not None:
                yield (
                    ref,
                    FailedPrecondition(
                        f"flag '{ref.key}' is a prerequisite of flag '{dependent}'",
                        "FLAG_IS_PREREQUISITE",
                        {**error_metadata(ref), "dependent": dependent},
                    ),
                )


def _missing_or_cyclic(after: _EnvironmentAfter) -> Iterator[tuple[str, ServiceError]]:
    dependents = [name for name, body in after.puts.items() if required_by(body)]
    if not dependents:
        return
    flags = {name: Flag.from_stored(body) for name, body in after.bodies_along_edges(dependents).items()}
    for name in dependents:
        try:
            check_prerequisites(flags[name], flags)
        except InvalidFlag as error:
            yield name, invalid_input(error)
    if cycle := find_cycle(flags.values()):
        # There was none before, so one of the written flags is in it.
        culprit = next((name for name in cycle if name in after.puts), dependents[0])
        path = " -> ".join(cycle)
        yield culprit, InvalidInput.of("prerequisites", f"must not form a cycle: {path}", "PREREQUISITE_CYCLE")
