"""All flags of one environment, compiled once. Server replicas and clients evaluate from it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from configsvc_client.evaluation.compiled_flag import CompiledFlag
from configsvc_client.evaluation.compiler import compile_flag, unreadable
from configsvc_client.evaluation.explainer import explain as explain_compiled
from configsvc_client.evaluation.explanation import PrerequisiteOutcome
from configsvc_client.evaluation.flag import Flag, Prerequisite
from configsvc_client.evaluation.flag_evaluation import Context, Evaluation

# The flags of a set by name.
_Compiled = dict[str, CompiledFlag]
# The names of prerequisites by the name of the flag that requires them.
_Edges = dict[str, tuple[str, ...]]
# Results that this call has already, by flag.
_Memo = dict[str, Evaluation]
# The variants that sticky flags assigned to a user before, by flag.
Assigned = Mapping[str, str]
_NONE: Assigned = {}


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

    A change makes a new set that shares all other compiled flags. It costs one copy of a dictionary, and what the
    changed flags and their prerequisites cost; the order of names is made when it is asked for. Flags must be of this environment, else
    ValueError; of two flags with one name the later stands. A flag that can't be compiled, since it is not valid
    (see `Flag`), evaluates to PARSE_ERROR; the others are not affected.
    """

    __slots__ = ("_compiled", "_cyclic", "_environment", "_names", "_revision")

    def __init__(self, environment: str, flags: Iterable[Flag] = (), revision: int = 0) -> None:
        self._environment = environment
        self._revision = revision
        self._compiled = {flag.name: self._compile(flag) for flag in flags}
        self._names: tuple[str, ...] | None = None
        self._cyclic = _names_on_or_before_cycles(_edges_of(self._compiled, self._compiled))

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
        return (self._compiled[name].flag for name in self._ordered_names())

    def get(self, name: str) -> Flag | None:
        """The flag of this name; None if there is none."""
        compiled = self._compiled.get(name)
        return None if compiled is None else compiled.flag

    def with_flag(self, flag: Flag, revision: int) -> "FlagSet":
        """This set with one flag put or replaced, at a revision."""
        return self.with_changes([flag], [], revision)

    def without_flag(self, name: str, revision: int) -> "FlagSet":
        """This set without one flag, which need not be there, at a revision."""
        return self.with_changes([], [name], revision)

    def with_changes(self, put: Iterable[Flag], removed: Iterable[str], revision: int) -> "FlagSet":
        """This set with flags put or replaced, and flags removed, which need not be there, at a revision."""
        changes: dict[str, CompiledFlag | None] = {flag.name: self._compile(flag) for flag in put}
        changes.update(dict.fromkeys(removed))
        compiled = self._compiled.copy()
        for name, flag in changes.items():
            if flag is None:
                compiled.pop(name, None)
            else:
                compiled[name] = flag
        changed = FlagSet(self._environment, (), revision)
        changed._compiled = compiled
        if all((name in self._compiled) == (name in compiled) for name in changes):
            changed._names = self._names
        changed._cyclic = self._cyclic_after(changes, compiled)
        return changed

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the flags, in order."""
        return self._ordered_names()

    def depends_on_sticky(self, name: str) -> bool:
        """Whether a flag's result depends on a sticky flag: itself or a prerequisite. True if there is no such flag."""
        compiled = self._compiled.get(name)
        if compiled is None:
            return True
        if not compiled.prerequisites:
            return compiled.flag.sticky
        return any(flag.sticky for flag in self.required_by(name))

    def required_by(self, name: str) -> tuple[Flag, ...]:
        """The flags that a flag's result depends on: itself, which comes first, its prerequisites, and theirs.

        Raises `FlagNotFound`.
        """
        if name not in self._compiled:
            raise FlagNotFound(name, self._environment)
        required = {name: None}
        waiting = [name]
        while waiting:
            others = [other for other, _ in self._compiled[waiting.pop()].prerequisites]
            new = [other for other in others if other in self._compiled and other not in required]
            required.update(dict.fromkeys(new))
            waiting += new
        return tuple(self._compiled[one].flag for one in required)

    def unit_of(self, name: str, context: Context) -> bytes | None:
        """The bytes that a flag buckets a context by; None if the context has none. Raises `FlagNotFound`."""
        if name not in self._compiled:
            raise FlagNotFound(name, self._environment)
        return self._compiled[name].unit(context)

    def evaluate(self, name: str, context: Context, explain: bool = False, assigned: Assigned = _NONE) -> Evaluation:
        """The result of a flag for a context. Raises `FlagNotFound`, and nothing else, whatever the context has.

        `explain` also says how the result came about; it takes some ten times as long. `assigned` are the variants
        that sticky flags, this one or its prerequisites, assigned to this user before.
        """
        compiled = self._compiled.get(name)
        if compiled is None:
            raise FlagNotFound(name, self._environment)
        if not explain and not compiled.prerequisites:
            return compiled.serve(context, assigned.get(name)) if assigned else compiled.run(context)
        return self._resolved(name, context, {}, explain, assigned)

    def evaluate_all(self, context: Context, explain: bool = False) -> tuple[Evaluation, ...]:
        """The results of all flags for a context, in the order of name. Prerequisites are evaluated once each."""
        # First the flags without prerequisites: most have none, and their results are needed by those that do.
        memo = {name: flag.run(context) for name, flag in self._compiled.items() if not flag.prerequisites}
        return tuple(self._resolved(name, context, memo, explain) for name in self._ordered_names())

    def _ordered_names(self) -> tuple[str, ...]:
        if self._names is None:
            # Threads that share the set may all make the same tuple.
            self._names = tuple(sorted(self._compiled))
        return self._names

    def _cyclic_after(self, changed_names: Iterable[str], compiled: _Compiled) -> frozenset[str]:
        """The cyclic names of a set that differs from this one in these flags."""
        with_new_edges = [
            name for name in changed_names if _required_names(compiled, name) != _required_names(self._compiled, name)
        ]
        # A new cycle has a new edge, so it is found along the edges of these flags.
        if not with_new_edges or not (self._cyclic or _names_on_or_before_cycles(_edges_of(compiled, with_new_edges))):
            return self._cyclic
        return _names_on_or_before_cycles(_edges_of(compiled, compiled))

    def _resolved(
        self, name: str, context: Context, memo: _Memo, explain: bool, assigned: Assigned = _NONE
    ) -> Evaluation:
        # An explicit stack: a chain of prerequisites may be deeper than Python's recursion limit.
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
        if name in memo or name in self._cyclic:
            return []
        prerequisites = self._compiled[name].prerequisites
        return [other for other, _ in prerequisites if other in self._compiled and other not in memo]

    def _met(self, compiled: CompiledFlag, memo: _Memo) -> bool:
        if compiled.prerequisites and compiled.flag.name in self._cyclic:
            return False
        return all(other in memo and memo[other].variant in accepted for other, accepted in compiled.prerequisites)

    def _explained(self, compiled: CompiledFlag, context: Context, memo: _Memo, assigned: Assigned) -> Evaluation:
        # A disabled flag does not evaluate its prerequisites.
        prerequisites = compiled.flag.prerequisites if compiled.prerequisites else ()
        name = compiled.flag.name
        outcomes = [self._outcome(name, prerequisite, memo) for prerequisite in prerequisites]
        evaluation = memo[name]
        if compiled.flag.problem:
            return evaluation
        explanation = explain_compiled(compiled, context, outcomes)
        if (evaluation.variant, evaluation.reason) != (explanation.variant, explanation.reason):
            explanation = replace(
                explanation, decided_by="assignment", variant=assigned[name], reason=str(evaluation.reason)
            )
        return replace(evaluation, explanation=explanation)

    def _outcome(self, name: str, prerequisite: Prerequisite, memo: _Memo) -> PrerequisiteOutcome:
        other, accepted = prerequisite.flag_name, prerequisite.variants
        if other not in self._compiled:
            return PrerequisiteOutcome(other, accepted, "", met=False, problem="missing")
        if name in self._cyclic:
            return PrerequisiteOutcome(other, accepted, "", met=False, problem="cycle")
        served = memo[other].variant
        return PrerequisiteOutcome(other, accepted, served, met=served in accepted)

    def _compile(self, flag: Flag) -> CompiledFlag:
        if flag.environment != self._environment:
            raise ValueError(f"flag '{flag.name}' is of environment '{flag.environment}', not of '{self._environment}'")
        if flag.problem:
            return unreadable(flag, flag.problem)
        try:
            return compile_flag(flag)
        except (LookupError, TypeError, ValueError) as error:
            # The flag was valid for the release that stored it.
            return unreadable(flag, str(error))


def find_cycle(flags: Iterable[Flag]) -> tuple[str, ...] | None:
    """A cycle among the prerequisites, as names: each requires the next, and the last is the first again.

    None if there is none. Disabled flags count: they may be enabled later.
    """
    graph = {flag.name: [p.flag_name for p in flag.prerequisites] for flag in flags}
    try:
        TopologicalSorter({name: graph[name] for name in sorted(graph)}).prepare()
    except CycleError as error:
        # graphlib names each before the one that requires it.
        return tuple(reversed(error.args[1]))
    return None


def _required_names(compiled: _Compiled, name: str) -> tuple[str, ...]:
    flag = compiled.get(name)
    return () if flag is None else tuple(other for other, _ in flag.prerequisites)


def _edges_of(compiled: _Compiled, names: Iterable[str]) -> _Edges:
    """The prerequisites by name of these flags, of their prerequisites, and so on."""
    edges: _Edges = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in edges and (others := _required_names(compiled, name)):
            edges[name] = others
            waiting += others
    return edges


def _names_on_or_before_cycles(edges: _Edges) -> frozenset[str]:
    """The flags whose prerequisites lead into a cycle. They are never met, whichever flag is evaluated.

    Writes refuse cycles, so there are such flags only in sets that were made from flags of other origin.
    """
    if not edges:
        return frozenset()
    order: TopologicalSorter[str] = TopologicalSorter(edges)
    try:
        order.prepare()
    except CycleError:
        # graphlib still yields the nodes that do not depend on a cycle.
        free: set[str] = set()
        while ready := order.get_ready():
            free.update(ready)
            order.done(*ready)
        return frozenset(edges) - free
    return frozenset()
