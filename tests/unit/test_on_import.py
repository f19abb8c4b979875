"""when_imported() acts once, after the module has been executed and before its importer goes on."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from crew_executor import on_import
from crew_executor.on_import import do_nothing, when_imported


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
    monkeypatch.setattr(on_import, "_own_path", [str(tmp_path)])
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


def test_it_acts_once_and_the_real_loader_is_seen(package: str) -> None:
    seen: list[ModuleType] = []
    when_imported(package, seen.append)
    importlib.import_module("json")
    assert seen == []
    module = importlib.import_module(package)
    assert seen == [module]

    importlib.reload(module)
    assert seen == [module]
    spec = importlib.util.find_spec("json")
    assert spec is not None
    assert module.__spec__ is not None
    assert type(module.__spec__.loader) is type(module.__loader__) is type(spec.loader)


def test_the_list_of_finders_stays_as_it_is(package: str) -> None:
    """An import of another thread that is on its way through it would miss the next finder."""
    when_imported(f"{package}.inner", do_nothing)
    when_imported(package, do_nothing)
    finders = list(sys.meta_path)
    importlib.import_module(f"{package}.inner")

    assert finders == sys.meta_path


def test_what_it_imports_of_the_standard_library_is_no_namesake(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / package / "inner.py").write_text("import this_is_of_the_standard_library as other\n")
    for folder in ("own", "users"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "this_is_of_the_standard_library.py").write_text(f"place = {folder!r}\n")
    monkeypatch.setattr(on_import, "_own_path", [str(tmp_path / "own")])
    monkeypatch.setattr(sys, "stdlib_module_names", frozenset({"this_is_of_the_standard_library"}))
    monkeypatch.syspath_prepend(tmp_path / "users")
    monkeypatch.delitem(sys.modules, "this_is_of_the_standard_library", raising=False)
    when_imported(f"{package}.inner", do_nothing)

    assert importlib.import_module(f"{package}.inner").other.place == "own"
    del sys.modules["this_is_of_the_standard_library"]
    assert importlib.import_module("this_is_of_the_standard_library").place == "users"
    del sys.modules["this_is_of_the_standard_library"]


def test_an_action_that_fails_is_tried_again(package: str) -> None:
    tries: list[ModuleType] = []

    def fail_once(module: ModuleType) -> None:
        tries.append(module)
        if len(tries) == 1:
            raise OSError("not yet")

    when_imported(package, fail_once)
    with pytest.raises(OSError, match="not yet"):
        importlib.import_module(package)
    assert importlib.import_module(package) is tries[1]


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


def test_who_only_asks_where_a_module_is_does_not_count(package: str) -> None:
    seen: list[ModuleType] = []
    when_imported(f"{package}.inner", seen.append)
    spec = importlib.util.find_spec(f"{package}.inner")
    assert spec is not None
    assert spec.loader is not None
    assert spec.loader.get_code(f"{package}.inner") is not None  # type: ignore[attr-defined]
    assert seen == []

    assert type(pickle.loads(pickle.dumps(spec)).loader) is not type(spec.loader)
    module = importlib.import_module(f"{package}.inner")
    assert seen == [module]
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert (seen, again.value) == ([module], 1)
