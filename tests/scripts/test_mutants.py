"""`make mutants`: the changes of a module, the tests of a module, and the report of changes that no test notices."""

import ast
import subprocess
from pathlib import Path

import pytest

from scripts.mutants import Checkout, chosen, main, modules_in
from scripts.mutations import mutations

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("x = a < b", ["x = (a <= b)"]),
        ("x = a is None", ["x = (a is not None)"]),
        ("x = a in b", ["x = (a not in b)"]),
        ("x = a and b", ["x = (a or b)"]),
        ("x = not a", ["x = (a)"]),
        ("x = min(a, b)", ["x = (max(a, b))"]),
        ("x = any(a)", ["x = (all(a))"]),
        ("x = a + b", ["x = (a - b)"]),
        ("x = 7", ["x = (8)", "x = (6)"]),
        ("x = True", ["x = (False)"]),
        ("f(a, b=c)", ["pass", "(f(a))"]),
        ("raise a", ["pass"]),
        ("def f():\n    return a", ["def f():\n    return None"]),
        ("if a:\n    f()", ["if (not (a)):\n    f()", "if a:\n    pass"]),
        # Positions are bytes, and a line may have wide characters.
        ("x = 'é' if a > b else ''", ["x = 'é' if (a >= b) else ''"]),
    ],
)
def test_decision_is_turned_into_another(source: str, changed: list[str]) -> None:
    assert [mutation.applied_to(source) for mutation in mutations(source)] == changed


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring: 1 < 2."""',
        "x: Literal[1]",
        "@decorated(frozen=True)\nclass A:\n    pass",
        "def f(x: int = a) -> B[1]:\n    ...",
        'logger.info("n", extra={"n": 1})',
        'x = f"{a + 1}"',
        "return_none = None",
    ],
)
def test_what_decides_nothing_is_left_alone(source: str) -> None:
    assert mutations(source) == []


def test_every_change_of_our_modules_is_valid_python_and_differs() -> None:
    for path in modules_in(ROOT, ["src/configsvc/app/flags", "clients/python/src/configsvc_client/evaluation"]):
        source = (ROOT / path).read_text(encoding="utf-8")
        found = mutations(source)
        for mutation in found:
            changed = mutation.applied_to(source)
            assert changed != source
            ast.parse(changed)
        assert found or path.endswith("__init__.py")


def test_seed_chooses_the_same_changes_again_and_another_seed_others() -> None:
    modules = modules_in(ROOT, ["src/configsvc/app/flags"])
    assert chosen(ROOT, modules, 10, 1) == chosen(ROOT, modules, 10, 1)
    assert chosen(ROOT, modules, 10, 1) != chosen(ROOT, modules, 10, 2)
    assert len(chosen(ROOT, modules, 10, 1)) == 10
    assert len(chosen(ROOT, modules, 10**6, 1)) == len({*chosen(ROOT, modules, 10**6, 2)})


def test_generated_modules_are_not_changed() -> None:
    assert modules_in(ROOT, ["clients/python/src/configsvc_client/evaluation/rest_names.py"]) == []
    assert modules_in(ROOT, ["clients/python/src/configsvc_client/v1"]) == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one module in a room, whose tests know one of its two decisions."""
    files = {
        "src/configsvc/__init__.py": "",
        "src/configsvc/app/__init__.py": "",
        "src/configsvc/app/doors.py": "is_open = lambda x, y: x > y\nis_shut = lambda x, y: x < y\n",
        "src/configsvc/app/user.py": "from configsvc.app import doors\n",
        "tests/conftest.py": (
            "from hypothesis import settings\n\nsettings.register_profile('quick')\n\n\n"
            "def pytest_addoption(parser):\n    parser.addoption('--no-services', action='store_true')\n"
        ),
        "tests/app/test_doors.py": (
            "from configsvc.app.doors import is_open\n\n\n"
            "def test_boundary():\n    print('ERROR  not a test')\n    assert [is_open(2, 2), is_open(3, 2)] == [False, True]\n"
        ),
        "tests/app/test_always_fails.py": "from configsvc.app import doors\n\n\ndef test_it():\n    assert False\n",
        "tests/test_user.py": "from configsvc.app.user import doors\n\n\ndef test_it():\n    assert doors\n",
        "tests/far.py": "from tests.test_user import doors\n",
        "tests/test_far.py": "from tests import far\n\n\ndef test_it():\n    assert far\n",
        "tests/test_other.py": "def test_it():\n    pass\n",
        "pyproject.toml": "[tool.pytest.ini_options]\naddopts = ['--import-mode=importlib']\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t.test"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    return tmp_path


def test_tests_of_a_module_are_those_that_import_it_the_nearest_first(repository: Path, tmp_path: Path) -> None:
    checkout = Checkout.copy_of(repository, tmp_path / "copy")
    room, near = checkout.tests_of("src/configsvc/app/doors.py")
    assert room == ["tests/app/test_doors.py", "tests/app/test_always_fails.py"]
    assert near == ["tests/test_user.py"], "far.py is too far, and test_other.py does not import it"


def test_change_that_no_test_notices_is_named_and_the_checkout_stays_as_it_is(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--modules", "src/configsvc/app/doors.py", "--count", "100", "--seconds", "60"]
    assert main(arguments, repository) == 0
    report = capsys.readouterr().out
    lived = report[report.index("changes lived") :]
    assert "doors.py:2: x < y  ->  x <= y" in lived
    assert "doors.py:1" not in lived
    assert "killed by tests/app/test_doors.py::test_boundary" in report
    assert "tests/app/test_always_fails.py::test_it fails without any change" in report
    status = subprocess.run(["git", "status", "--short"], cwd=repository, capture_output=True, text=True, check=True)
    assert status.stdout == ""


def test_modules_of_a_change_are_those_that_differ_from_the_base(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([], repository) == 2
    assert "none differs from main" in capsys.readouterr().err
    (repository / "src/configsvc/app/user.py").write_text("from configsvc.app import doors\n\nx = 1\n")
    assert main(["--count", "1"], repository) == 0
    assert "src/configsvc/app/user.py:3: 1  ->  " in capsys.readouterr().out
