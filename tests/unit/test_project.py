"""The repository's own rules: how long, how typed, how documented, and that the tests test what they seem to test.

Read from the sources by ast: nothing is imported, no process is started.
"""

import ast
import configparser
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = sorted((ROOT / "crew_executor").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))

LINES_IN_A_FILE = 600
LINES_IN_A_FUNCTION = 60  # without its docstring and blank lines

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def files_in(directory: Path) -> set[str]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(directory).as_posix() for path in files}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def functions_in(path: Path) -> Iterator[Function]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, Function):
            yield node


def methods_in(path: Path) -> set[Function]:
    """The functions whose first argument is self or cls and needs no annotation."""
    return {
        function
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
        for function in node.body
        if isinstance(function, Function)
    }


def length_of(function: Function, lines: list[str]) -> int:
    """Count the lines of code and comments."""
    docstring: set[int] = set()
    if ast.get_docstring(function) is not None:
        docstring = set(range(function.body[0].lineno, (function.body[0].end_lineno or 0) + 1))
    numbers = range(function.lineno, (function.end_lineno or 0) + 1)
    return sum(1 for number in numbers if number not in docstring and lines[number - 1].strip())


def unannotated_arguments(function: Function, *, is_method: bool) -> list[str]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    if is_method and not any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.decorator_list):
        named = named[1:]
    named += [*arguments.kwonlyargs, *filter(None, (arguments.vararg, arguments.kwarg))]
    missing = [argument.arg for argument in named if argument.annotation is None]
    return missing if function.returns is not None else [*missing, "return"]


def test_pytest_is_configured_by_setup_cfg(pytestconfig: pytest.Config) -> None:
    """A pytest.ini, or a section in pyproject.toml or tox.ini, would silently win over setup.cfg."""
    assert ROOT / "setup.cfg" == pytestconfig.inipath


@pytest.mark.skipif("TOX_ENV_NAME" not in os.environ, reason="outside tox an editable install may well be tested")
def test_the_installed_package_is_tested_not_the_checkout() -> None:
    spec = importlib.util.find_spec("crew_executor")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent

    assert ROOT / "crew_executor" != installed
    # A file too many was deleted from the sources but still stands in build/: remove build/.
    assert files_in(ROOT / "crew_executor") == files_in(installed)


def test_the_package_was_found() -> None:
    """Otherwise the tests below pass by looking at nothing."""
    assert ROOT / "crew_executor" / "__init__.py" in PACKAGE


def test_no_file_is_too_long() -> None:
    lengths = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in [*PACKAGE, *TESTS, *BENCHMARKS]}

    assert {} == {name: length for name, length in lengths.items() if length > LINES_IN_A_FILE}


def test_no_function_is_too_long() -> None:
    too_long = {}
    for path in [*PACKAGE, *BENCHMARKS]:
        lines = path.read_text("utf-8").splitlines()
        for function in functions_in(path):
            if (length := length_of(function, lines)) > LINES_IN_A_FUNCTION:
                too_long[f"{name_of(path)}:{function.lineno} {function.name}"] = length

    assert {} == too_long


def test_every_function_is_annotated() -> None:
    unannotated = {}
    for path in [*PACKAGE, *BENCHMARKS]:
        methods = {method.lineno for method in methods_in(path)}
        for function in functions_in(path):
            if missing := unannotated_arguments(function, is_method=function.lineno in methods):
                unannotated[f"{name_of(path)}:{function.lineno} {function.name}"] = missing

    assert {} == unannotated


def test_every_module_has_a_docstring() -> None:
    assert [] == [name_of(path) for path in [*PACKAGE, *BENCHMARKS] if not ast.get_docstring(tree_of(path))]


def test_every_directory_of_tests_is_a_package() -> None:
    """Two test files of one name would collide, and workers could not import the functions in them."""
    directories = {path.parent for path in TESTS} - {ROOT / "tests"}

    assert [] == sorted(name_of(directory) for directory in directories if not (directory / "__init__.py").exists())
    assert not (ROOT / "tests" / "__init__.py").exists()


def test_every_tier_is_run_by_an_environment_of_tox() -> None:
    """By the ordinary ones, which follow setup.cfg, or by one that names it: a tier may need more libraries."""
    setup = configparser.RawConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    run = {*setup["tool:pytest"]["testpaths"].split()}
    run |= {*re.findall(r"testpaths=(\S+)", (ROOT / "tox.ini").read_text("utf-8"))}

    assert run == {name_of(path) for path in (ROOT / "tests").iterdir() if (path / "__init__.py").exists()}


def test_relative_links_in_the_documentation_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = []
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", text):
            if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
                broken.append(f"{name_of(page)}: {target}")

    assert [] == broken
