"""All flags of one environment, compiled once: what a server replica and a client evaluate from."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from configsvc_client.evaluation.compiled import CompiledFlag, compile_flag, unreadable
from configsvc_client.evaluation.evaluate import Context, Evaluation
from configsvc_client.evaluation.explanation import PrerequisiteOutcome
from configsvc_client.evaluation.flag import Flag, Prerequisite
from configsvc_client.evaluation.tracing import explain as explained

# Outcomes that are known already in this call, by flag.
_Memo = dict[str, Evaluation]
# The variants that sticky flags have given to a user before, by flag.
Assigned = Mapping[str, str]
_NOTHING: Assigned = {}


class FlagNotFound(KeyError):
    """The environment has no flag of this name: `flag_name`. OpenFeature's FLAG_NOT_FOUND."""

    def __init__(self, flag_name: str, environment: str) -> None:
        self.flag_name = flag_name
        self.environment = environment
        super().__init__(flag_name)

    def __str__(self) -> str:
        return f"environment '{self.environment}' has no flag '{self.flag_name}'"


class FlagSet:
    """The flags of one environment at one revision. Immutable, so threads and tasks may share it.

    A change makes a new set that shares all other compiled flags. Flags must be of this environment, else
    ValueError; of two flags with one name the later stands. One that is not valid (see `Flag`) evaluates to
    PARSE_ERROR if it can't be compiled; the others are not touched by it.
    """

    __slots__ = ("_compiled", "_environment", "_names", "_revision", "_stuck")

    def __init__(self, environment: str, flags: Iterable[Flag] = (), revision: int = 0) -> None:
        self._environment = environment
        self._revision = revision
        self._compiled = {flag.name: self._compile(flag) for flag in flags}
        self._index()

    @property
    def environment(self) -> str:
        """The environment that all flags belong to."""
        return self._environment

    @property
    def revision(self) -> int:
        """The revision of the change log that this set shows."""
        return self._revision

    def __len__(self) -> int:
        return len(self._compiled)

    def __contains__(self, name: object) -> bool:
        return name in self._compiled

    def __iter__(self) -> Iterator[Flag]:
        """The flags in the order of name."""
        return (self._compiled[name].flag for name in self._names)

    def get(self, name: str) -> Flag | None:
        """The flag of this name; None where there is none."""
        compiled = self._compiled.get(name)
        return None if compiled is None else compiled.flag

    def with_flag(self, flag: Flag, revision: int) -> "FlagSet":
        """This set with one flag put or replaced, at a revision."""
        return self._changed({**self._compiled, flag.name: self._compile(flag)}, revision)

    def without_flag(self, name: str, revision: int) -> "FlagSet":
        """This set without one flag, which need not be there, at a revision."""
        return self._changed({n: c for n, c in self._compiled.items() if n != name}, revision)

    def required_by(self, name: str) -> tuple[Flag, ...]:
        """The flags that decide on a flag's outcome: itself, which comes first, its prerequisites, and theirs.

        Raises `FlagNotFound`.
        """
        if name not in self._compiled:
            raise FlagNotFound(name, self._environment)
        found = {name: None}
        waiting = [name]
        while waiting:
            others = [other for other, _ in self._compiled[waiting.pop()].prerequisites]
            new = [other for other in others if other in self._compiled and other not in found]
            found.update(dict.fromkeys(new))
            waiting += new
        return tuple(self._compiled[one].flag for one in found)

    def unit_of(self, name: str, context: Context) -> bytes | None:
        """What a flag buckets a context by; None if the context does not have it. Raises `FlagNotFound`."""
        if name not in self._compiled:
            raise FlagNotFound(name, self._environment)
        return self._compiled[name].unit(context)

    def evaluate(self, name: str, context: Context, explain: bool = False, assigned: Assigned = _NOTHING) -> Evaluation:
        """What a flag is for a context. Raises `FlagNotFound`, and nothing else, whatever the context has.

        `explain` also says how the outcome came about; it takes some ten times as long. `assigned` are the variants
        that sticky flags, this one or its prerequisites, gave to this user before.
        """
        compiled = self._compiled.get(name)
        if compiled is None:
            raise FlagNotFound(name, self._environment)
        if not explain and not compiled.prerequisites:
            return compiled.serve(context, assigned.get(name)) if assigned else compiled.run(context)
        return self._resolved(name, context, {}, explain, assigned)

    def evaluate_all(self, context: Context, explain: bool = False) -> tuple[Evaluation, ...]:
        """What all flags are for a context, in the order of name. Prerequisites are evaluated once each."""
        # First those that ask no other flag: most do not, and they are at hand for those that do.
        memo = {name: flag.run(context) for name, flag in self._compiled.items() if not flag.prerequisites}
        return tuple(self._resolved(name, context, memo, explain) for name in self._names)

    def _resolved(
        self, name: str, context: Context, memo: _Memo, explain: bool, assigned: Assigned = _NOTHING
    ) -> Evaluation:
        # A stack of our own: a chain of prerequisites may be longer than Python's.
        waiting = [] if name in memo else [name]
        while waiting:
            top = waiting[-1]
            pending = self._pending(top, memo)
            if pending:
                waiting.extend(pending)
                continue
            waiting.pop()
            if top not in memo:
                compiled = self._compiled[top]
                met = self._met(compiled, memo)
                memo[top] = compiled.serve(context, assigned.get(top)) if met else compiled.unmet(context)
        if not explain:
            return memo[name]
        return self._explained(self._compiled[name], context, memo, assigned)

    def _pending(self, name: str, memo: _Memo) -> list[str]:
        """The prerequisites that have to be evaluated before this flag."""
        if name in memo or name in self._stuck:
            return []
        asked = self._compiled[name].prerequisites
        return [other for other, _ in asked if other in self._compiled and other not in memo]

    def _met(self, compiled: CompiledFlag, memo: _Memo) -> bool:
        if compiled.prerequisites and compiled.flag.name in self._stuck:
            return False
        return all(other in memo and memo[other].variant in wanted for other, wanted in compiled.prerequisites)

    def _explained(self, compiled: CompiledFlag, context: Context, memo: _Memo, assigned: Assigned) -> Evaluation:
        # A disabled flag does not ask its prerequisites.
        asked = compiled.flag.prerequisites if compiled.prerequisites else ()
        name = compiled.flag.name
        outcomes = [self._outcome(name, prerequisite, memo) for prerequisite in asked]
        found = memo[name]
        if compiled.flag.problem:
            return found
        explanation = explained(compiled, context, outcomes)
        if (found.variant, found.reason) != (explanation.variant, explanation.reason):
            explanation = replace(
                explanation, decided_by="assignment", variant=assigned[name], reason=str(found.reason)
            )
        return replace(found, explanation=explanation)

    def _outcome(self, name: str, prerequisite: Prerequisite, memo: _Memo) -> PrerequisiteOutcome:
        other, wanted = prerequisite.flag_name, prerequisite.variants
        if other not in self._compiled:
            return PrerequisiteOutcome(other, wanted, "", met=False, problem="missing")
        if name in self._stuck:
            return PrerequisiteOutcome(other, wanted, "", met=False, problem="cycle")
        served = memo[other].variant
        return PrerequisiteOutcome(other, wanted, served, met=served in wanted)

    def _compile(self, flag: Flag) -> CompiledFlag:
        if flag.environment != self._environment:
            raise ValueError(f"flag '{flag.name}' is of environment '{flag.environment}', not of '{self._environment}'")
        if flag.problem:
            return unreadable(flag, flag.problem)
        try:
            return compile_flag(flag)
        except (LookupError, TypeError, ValueError) as error:
            # It was valid for the release that stored it.
            return unreadable(flag, str(error))

    def _changed(self, compiled: dict[str, CompiledFlag], revision: int) -> "FlagSet":
        changed = FlagSet(self._environment, (), revision)
        changed._compiled = compiled
        changed._index()
        return changed

    def _index(self) -> None:
        self._names = tuple(sorted(self._compiled))
        # Flags whose prerequisites lead into a cycle: never met, wherever an evaluation starts. Writes
        # refuse cycles, so this is for sets that were put together from elsewhere.
        edges = {
            name: [other for other, _ in compiled.prerequisites]
            for name, compiled in self._compiled.items()
            if compiled.prerequisites
        }
        self._stuck = _stuck(edges)


def find_cycle(flags: Iterable[Flag]) -> tuple[str, ...] | None:
    """A cycle among the prerequisites, as names: each requires the next, and the last is the first again.

    None where there is none. Disabled flags count: they may be enabled later.
    """
    graph = {flag.name: [p.flag_name for p in flag.prerequisites] for flag in flags}
    try:
        TopologicalSorter({name: graph[name] for name in sorted(graph)}).prepare()
    except CycleError as error:
        # graphlib names each before the one that requires it.
        return tuple(reversed(error.args[1]))
    return None


def _stuck(edges: dict[str, list[str]]) -> frozenset[str]:
    if not edges:
        return frozenset()
    order: TopologicalSorter[str] = TopologicalSorter(edges)
    try:
        order.prepare()
    except CycleError:
        # graphlib documents that what does not depend on a cycle can still be had.
        free: set[str] = set()
        while ready := order.get_ready():
            free.update(ready)
            order.done(*ready)
        return frozenset(edges) - free
    return frozenset()
