"""Does something when a module is imported for the first time: for modules that most programs need not pay for.

A worker must set up logging, and share multiprocessing's resource tracker with its client, before any task uses these.
To import both takes a fourth of the time in which the first worker is up, and most tasks use neither.
Must not import what it waits for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Action = Callable[[ModuleType], None]


def when_imported(name: str, action: Action) -> None:
    """Call `action` with a module: now if it has been imported, else right after it was, before its importer goes on.

    Args:
        name: the module's.
        action: what to do. If it raises, so does the import.
    """
    module = sys.modules.get(name)
    if module is not None:
        action(module)
    else:
        sys.meta_path.insert(0, _Finder(name, action))


class _Finder:
    """Stands in front of the real finders until its module was imported; to be asked where it is does not count."""

    def __init__(self, name: str, action: Action) -> None:
        self._name = name
        self._action = action
        self._asking: set[int] = set()  # threads that ask the others on our behalf
        self._is_done = False

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        thread = threading.get_ident()
        if name != self._name or thread in self._asking:
            return None
        self._asking.add(thread)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking.discard(thread)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]  # it has all that is asked of one
        return spec

    def imported(self, module: ModuleType) -> None:
        """Go away and act, once: a spec that somebody has kept may be loaded again."""
        with contextlib.suppress(ValueError):  # a task has taken it away, or put another list there
            sys.meta_path.remove(self)
        if not self._is_done:
            self._is_done = True
            self._action(module)


class _Loader:
    """Loads by the real loader, which is the only one that is seen afterwards."""

    def __init__(self, loader: Any, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # for those who only ask

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._finder.imported(module)
