"""when_imported() acts once, after the module has been executed and before its importer goes on."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from crew_executor.on_import import when_imported


@pytest.fixture(name="package")
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the name of a package with a module `inner`, which no other test has imported."""
    folder = tmp_path / "made_for_test_on_import"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "inner.py").write_text("value = 1\n")
    (folder / "user.py").write_text("from .inner import value\n")
    (folder / "broken.py").write_text("raise OSError('at import')\n")
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield folder.name
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
        del sys.modules[name]


def test_it_acts_before_the_importer_goes_on(package: str) -> None:
    def change(module: ModuleType) -> None:
        assert module.value == 1, "it has been executed"
        module.value = 2

    when_imported(f"{package}.inner", change)
    assert importlib.import_module(f"{package}.user").value == 2


def test_it_acts_at_once_on_what_is_imported(package: str) -> None:
    module = importlib.import_module(package)
    seen: list[ModuleType] = []
    when_imported(package, seen.append)
    assert seen == [module]


def test_it_acts_once_and_leaves_no_trace(package: str) -> None:
    finders, seen = list(sys.meta_path), list[ModuleType]()
    when_imported(package, seen.append)
    importlib.import_module("json")
    assert seen == []
    module = importlib.import_module(package)
    assert seen == [module]
    assert sys.meta_path == finders

    importlib.reload(module)
    assert seen == [module]
    spec = importlib.util.find_spec("json")
    assert spec is not None
    assert module.__spec__ is not None
    assert type(module.__spec__.loader) is type(module.__loader__) is type(spec.loader)


def test_several_may_wait_each_for_its_module(package: str) -> None:
    seen: list[str] = []
    when_imported(f"{package}.inner", lambda module: seen.append(module.__name__))
    when_imported(package, lambda module: seen.append(module.__name__))
    importlib.import_module(f"{package}.inner")
    assert seen == [package, f"{package}.inner"]


def test_a_module_that_is_not_there_is_not_there(package: str) -> None:
    when_imported(f"{package}.missing", lambda _module: pytest.fail("there is none"))
    with pytest.raises(ModuleNotFoundError, match="missing"):
        importlib.import_module(f"{package}.missing")


def test_a_module_that_fails_fails_as_ever(package: str) -> None:
    when_imported(f"{package}.broken", lambda _module: pytest.fail("it did not come up"))
    with pytest.raises(OSError, match="at import"):
        importlib.import_module(f"{package}.broken")
    assert f"{package}.broken" not in sys.modules


def test_a_finder_that_somebody_took_away_does_no_harm(package: str) -> None:
    class Remover:
        def find_spec(self, name: str, _path: object, _target: object = None) -> None:
            if name == package:
                sys.meta_path[:] = [each for each in sys.meta_path if type(each).__name__ != "_Finder"]

    seen: list[ModuleType] = []
    when_imported(package, seen.append)
    waiting = sys.meta_path[0]
    sys.meta_path.insert(0, Remover())  # type: ignore[arg-type]
    importlib.import_module(package)
    assert seen == []
    assert waiting.find_spec(package, None) is not None, "the search that goes on in a copy of the list"


def test_who_only_asks_where_a_module_is_does_not_count(package: str) -> None:
    seen: list[ModuleType] = []
    when_imported(f"{package}.inner", seen.append)
    spec = importlib.util.find_spec(f"{package}.inner")
    assert spec is not None
    assert spec.loader is not None
    assert spec.loader.get_code(f"{package}.inner") is not None  # type: ignore[attr-defined]
    assert seen == []

    module = importlib.import_module(f"{package}.inner")
    assert seen == [module]
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert (seen, again.value) == ([module], 1)
