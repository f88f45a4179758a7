"""Changes the code in small ways, one at a time, and names the changes that no fast test notices (`make mutants`).

    BASE=main         the modules that differ from this commit
    MODULES="a b"     these files or folders instead
    COUNT=40 SEED=7   so many changes, chosen by the seed; the same seed chooses the same ones on the same code
    SECONDS=120       how long the tests may take for one change

The tests of a module are the files that import it: those of its room first, however they import it, then others that
import it directly or through one other module. Tests that need an engine are skipped. A change that fails none of them has lived: it is a missing test,
dead code, or a change that makes no difference (an equivalent one). If the time is up before, the change is undecided: the
machine is busy, or the change made something endless.

Everything happens in a copy of the checkout. The failing test of each change is also run without the change, so that a
test that always fails proves nothing.

Why not a library: mutmut 3 and cosmic-ray are kept well, but neither takes a sample by a seed, and both run one set of
tests for every change, which takes minutes here. mutmut also forks a process that has imported gRPC, whose threads do not
survive that; cosmic-ray changes the checkout itself.
"""

import argparse
import ast
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from scripts.mutations import Mutation, mutations

ROOT = Path(__file__).resolve().parent.parent
# Import roots, as paths in the repository.
SOURCES = ("src", "clients/python/src", ".")
CHANGED = ("src/configsvc/", "clients/python/src/configsvc_client/evaluation/")
GENERATED = "rest_names.py"
NO_TESTS_RAN = 5
# Before it are the logs of the failed test, whose lines may look like those of the summary.
SUMMARY = "short test summary info"
# As pytest sums it up: the test's id, which may have spaces, and perhaps the error.
FAILURE = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)
# Imports between a module and its near tests.
NEAR = 2


@dataclass(slots=True)
class Checkout:
    """The files of the repository, copied to a folder, and how its modules import each other."""

    folder: Path
    # Module name by path, and the paths that import a path.
    importers: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def copy_of(cls, root: Path, folder: Path) -> "Checkout":
        """A copy of the files that git knows or would add."""
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, text=True, check=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (root / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, folder / name)
        checkout = cls(folder)
        checkout._read_imports()
        # Compiled once. A hash of the source tells which file is the changed one; its time of change may not.
        compile_all = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", str(folder)]
        subprocess.run(compile_all, check=True, stdout=subprocess.DEVNULL)
        return checkout

    def tests_of(self, path: str) -> tuple[list[str], list[str]]:
        """The test files that import a module: those of its room, and the other near ones. The nearest come first."""
        distance = {path: 0}
        waiting = [path]
        for current in waiting:
            for importer in sorted(self.importers.get(current, ())):
                if importer not in distance:
                    distance[importer] = distance[current] + 1
                    waiting.append(importer)
        tests = [other for other in distance if Path(other).name.startswith("test_") and other.startswith("tests/")]
        room, name = _test_room(path), Path(path).stem
        # A file that is named after the module comes before its neighbours.
        tests.sort(key=lambda test: (name not in Path(test).stem, distance[test], test))
        # A room's tests may import a package that imports the module through others.
        near = [test for test in tests if not test.startswith(room) and distance[test] <= NEAR]
        return [test for test in tests if test.startswith(room)], near

    def _read_imports(self) -> None:
        paths = [str(path.relative_to(self.folder)) for path in self.folder.rglob("*.py")]
        names = {_module_name(path): path for path in paths}
        for path in paths:
            for name in _imported(self.folder / path):
                # `from a import b` imports the module a.b, or the name b of the module a.
                if (target := names.get(name) or names.get(name.rpartition(".")[0])) is not None:
                    self.importers.setdefault(target, set()).add(path)


def _module_name(path: str) -> str:
    for source in SOURCES[:2]:
        path = path.removeprefix(f"{source}/")
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _test_room(path: str) -> str:
    folder = os.path.dirname(path)
    for source, tests in (("src/configsvc", "tests"), ("clients/python/src/configsvc_client", "tests")):
        if folder.startswith(source):
            return tests + folder.removeprefix(source) + "/"
    return "tests/"


@dataclass(frozen=True, slots=True)
class Result:
    """What the tests said of one change. `failed`: the test that noticed it; empty: none of those that ended in time."""

    failed: str
    seconds: float
    is_undecided: bool = False

    def __str__(self) -> str:
        if self.failed:
            return f"killed by {self.failed}"
        return "UNDECIDED: time was up" if self.is_undecided else "LIVED"


class Runner:
    """Runs tests in a copy of the checkout, with one change or without."""

    def __init__(self, checkout: Checkout, seconds: float) -> None:
        self._checkout = checkout
        self._seconds = seconds
        self._fails_anyway: dict[str, bool] = {}

    def result(self, path: str, mutation: Mutation) -> Result:
        """Runs the tests of a module with a change in it."""
        file = self._checkout.folder / path
        source = file.read_text(encoding="utf-8")
        began = time.monotonic()
        groups = self._checkout.tests_of(path)
        file.write_text(mutation.applied_to(source), encoding="utf-8")
        try:
            failed, is_undecided = self._first_failure(groups, began + self._seconds)
        finally:
            file.write_text(source, encoding="utf-8")
        if failed and self._always_fails(failed):
            sys.stdout.write(f"  {failed} fails without any change: it is left out\n")
            return self.result(path, mutation)
        return Result(failed, time.monotonic() - began, is_undecided)

    def _always_fails(self, test: str) -> bool:
        file = test.partition("::")[0]
        if test not in self._fails_anyway:
            fails = self._run([test], self._seconds) == test
            self._fails_anyway[test] = fails
            self._fails_anyway[file] = fails or self._fails_anyway.get(file, False)
        return self._fails_anyway[test]

    def _first_failure(self, groups: Sequence[Sequence[str]], deadline: float) -> tuple[str, bool]:
        """The first test that fails, or empty; and whether time was up before all had ended."""
        for group in groups:
            tests = [test for test in group if not self._fails_anyway.get(test)]
            failed = self._run(tests, deadline - time.monotonic()) if tests else ""
            if failed != "":
                return failed or "", failed is None
        return "", False

    def _run(self, tests: Sequence[str], seconds: float) -> str | None:
        """The first test that fails; empty if all pass; None if time was up before."""
        if seconds <= 0:
            return None
        pytest = [sys.executable, "-m", "pytest", "-q", "-x", "--no-services", "-p", "no:cacheprovider", "--no-header"]
        # Few examples of each property, and a failure as it was found (tests/conftest.py).
        pytest.append("--hypothesis-profile=quick")
        path = os.pathsep.join(str(self._checkout.folder / source) for source in SOURCES)
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        with subprocess.Popen(
            [*pytest, *tests],
            cwd=self._checkout.folder, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                return None
            finally:
                # Its own session: nothing that a test started outlives it, also if this run is interrupted.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode in (0, NO_TESTS_RAN):
            return ""
        failure = FAILURE.search(output.rpartition(SUMMARY)[2])
        return failure[1] if failure else f"{tests[0]}, which could not be run"


def changed_modules(root: Path, base: str) -> list[str]:
    """The modules that differ from a commit, in the working tree as well."""
    names = subprocess.run(
        ["git", "diff", "--name-only", "--diff-filter=d", "--merge-base", base],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return modules_in(root, [name for name in names.stdout.splitlines() if name.endswith(".py")])


def modules_in(root: Path, names: Iterable[str]) -> list[str]:
    """The modules among these files and in these folders that can be changed."""
    paths = []
    for name in names:
        files = sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name]
        paths += [str(file.relative_to(root)) for file in files]
    return [path for path in paths if path.startswith(CHANGED) and Path(path).name != GENERATED]


def chosen(root: Path, modules: Sequence[str], count: int, seed: int) -> list[tuple[str, Mutation]]:
    """A sample of the changes of these modules, in the order of path and line."""
    every = [(path, one) for path in sorted(modules) for one in mutations((root / path).read_text(encoding="utf-8"))]
    sample = random.Random(seed).sample(range(len(every)), min(count, len(every)))
    return [every[index] for index in sorted(sample)]


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Prints each change with its result, then the changes that lived. Returns 0, or 2 if no module can be changed."""
    parser = argparse.ArgumentParser(description="Names small changes of the code that no fast test notices.")
    parser.add_argument("--base", default="main")
    parser.add_argument("--modules", default="")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args(arguments)
    modules = modules_in(root, options.modules.split()) if options.modules else changed_modules(root, options.base)
    sample = chosen(root, modules, options.count, options.seed)
    if not sample:
        sys.stderr.write(f"no module to change: none differs from {options.base}; name some with MODULES\n")
        return 2
    results: list[tuple[str, Result]] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        runner = Runner(Checkout.copy_of(root, Path(folder)), options.seconds)
        for number, (path, mutation) in enumerate(sample, 1):
            result = runner.result(path, mutation)
            change = f"{path}:{mutation.line}: {mutation.description}"
            results.append((change, result))
            sys.stdout.write(f"[{number}/{len(sample)}] {change}\n    {result} ({result.seconds:.0f} s)\n")
            sys.stdout.flush()
    lived = [change for change, result in results if not result.failed and not result.is_undecided]
    undecided = [change for change, result in results if result.is_undecided]
    sys.stdout.write(f"\n{len(lived)} of {len(sample)} changes lived (seed {options.seed}):\n")
    sys.stdout.writelines(f"  {change}\n" for change in lived)
    if undecided:
        sys.stdout.write(f"{len(undecided)} had tests left when the {options.seconds:.0f} s were over:\n")
        sys.stdout.writelines(f"  {change}\n" for change in undecided)
    return 0


if __name__ == "__main__":
    # Either signal ends the tests that are running and removes the copy, also in the background, where SIGINT is ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))
    sys.exit(main())
