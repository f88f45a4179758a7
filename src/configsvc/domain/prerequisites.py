"""Prerequisites of flags, judged on the state after a write, so that flags that need each other's news can be written
together.
"""

from collections.abc import Iterator, Mapping, Sequence

from configsvc_client.evaluation import Flag, InvalidFlag, check_prerequisites, find_cycle

from configsvc.domain.flags import refused
from configsvc.domain.records import Decision, JsonObject, Kind, Mutation, Put, Ref, Scope, View
from configsvc.domain.resources import error_metadata
from configsvc.errors import FailedPrecondition, InvalidInput, ServiceError

_Bodies = Mapping[str, JsonObject]


def judged(decide: Decision) -> Decision:
    """A decision on flags that also raises what is wrong with the prerequisites after it.

    The view must have every environment that flags are written in (`Scope`). Raises `InvalidInput`, and `FailedPrecondition`
    (reason `FLAG_IS_PREREQUISITE`) if a flag goes that another one needs.
    """

    def decide_and_judge(view: View) -> Sequence[Mutation]:
        mutations = decide(view)
        for _, error in problems(view, mutations):
            raise error
        return mutations

    return decide_and_judge


def problems(view: View, mutations: Sequence[Mutation]) -> Iterator[tuple[Ref, ServiceError]]:
    """What is wrong with the prerequisites after these mutations, and whose fault it is: a ref of theirs."""
    written = [mutation for mutation in mutations if mutation.ref.kind is Kind.FLAG]
    for environment in dict.fromkeys(mutation.ref.environment for mutation in written):
        here = {m.ref: m for m in written if m.ref.environment == environment}
        puts = {ref.key: m.body for ref, m in here.items() if isinstance(m, Put)}
        gone = {ref.key: ref for ref, m in here.items() if not isinstance(m, Put)}
        if not gone and not any(body["prerequisites"] for body in puts.values()):
            continue
        before = {record.ref.key: record.body for record in view.of(Scope(Kind.FLAG, environment))}
        after = {name: body for name, body in {**before, **puts}.items() if name not in gone}
        yield from _still_needed(gone, after)
        for name, error in _wrong(puts, after):
            yield Ref(Kind.FLAG, environment, "", name), error


def _still_needed(gone: Mapping[str, Ref], after: _Bodies) -> Iterator[tuple[Ref, ServiceError]]:
    for dependent, body in after.items() if gone else ():
        for needed in body["prerequisites"]:
            if (ref := gone.get(needed["flag_name"])) is not None:
                yield (
                    ref,
                    FailedPrecondition(
                        f"flag '{ref.key}' is a prerequisite of flag '{dependent}'",
                        "FLAG_IS_PREREQUISITE",
                        {**error_metadata(ref), "dependent": dependent},
                    ),
                )


def _wrong(puts: _Bodies, after: _Bodies) -> Iterator[tuple[str, ServiceError]]:
    needing = [name for name, body in puts.items() if body["prerequisites"]]
    if not needing:
        return
    wanted = {needed["flag_name"] for name in needing for needed in puts[name]["prerequisites"]}
    # Only what the check looks at is read: the flags that are named, and those that name others.
    flags = {name: Flag.from_stored(body) for name, body in after.items() if name in wanted or body["prerequisites"]}
    for name in needing:
        try:
            check_prerequisites(flags[name], flags)
        except InvalidFlag as error:
            yield name, refused(error)
    if cycle := find_cycle(flags.values()):
        # There was none before, so one of the written flags is in it.
        guilty = next((name for name in cycle if name in puts), needing[0])
        path = " -> ".join(cycle)
        yield guilty, InvalidInput.of("prerequisites", f"must not form a cycle: {path}", "PREREQUISITE_CYCLE")
