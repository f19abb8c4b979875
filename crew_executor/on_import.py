"""Does something when a module is imported for the first time: for modules that most programs need not pay for.

A worker must set up logging, and share multiprocessing's resource tracker with its client, before any task uses these.
To import both takes a fourth of the time in which the first worker is up, and most tasks use neither. Must not import
what it waits for.

Rule 1: the finder that waits stays where it is for good. CPython goes through the list of finders while others change
it: 1. a thread has asked the first finder  2. another takes the first one away  3. the thread asks the third, and a
module is not found. Rule 2: these modules, and what they import of the standard library, come from the path that the
interpreter had before the client's was added, as if they had been imported then: a `token.py` of the user's is not
theirs.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

Action = Callable[[ModuleType], None]

_own_path = list(sys.path)
"""As it is when the supervisor, or the interpreter of a single worker, imports this: see boot_arguments()."""


def when_imported(name: str, action: Action) -> None:
    """Call `action` with a module: now if it has been imported, else right after it was, before its importer goes on.

    To be called while there is one thread, before users' code runs.

    Args:
        name: of a module of the standard library.
        action: what to do. If it raises, so does the import.
    """
    module = sys.modules.get(name)
    if module is not None:
        action(module)
        return
    finder = next((each for each in sys.meta_path if isinstance(each, _Finder)), None)
    if finder is None:
        finder = _Finder(_own_path)
        sys.meta_path.insert(0, finder)
    finder.actions[name] = action


def do_nothing(_module: ModuleType) -> None:
    """Have a module come from the right path, no more: rule 2."""


class _Finder:
    """Stands in front of the real finders.

    Args:
        path: where modules come from that it is asked for, and those that these import.

    Attributes:
        actions: what is to be done when a module is imported, by the module's name.
        inside: threads that are importing one of these.
    """

    def __init__(self, path: list[str]) -> None:
        self._path = path
        self.actions: dict[str, Action] = {}
        self.inside: set[int] = set()

    def find_spec(self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        is_awaited = name in self.actions
        if not is_awaited and not (self.inside and threading.get_ident() in self.inside):
            return None
        if not is_awaited and path is None and name not in sys.stdlib_module_names:
            return None
        spec = PathFinder.find_spec(name, self._path if path is None else path)
        if is_awaited and spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]  # it has all that is asked of one
        return spec


class _Loader:
    """Loads by the real loader, which is the only one that is seen afterwards."""

    def __init__(self, loader: Any, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # for those who only ask where the module is

    def __reduce__(self) -> Any:
        return _itself, (self._loader,)  # a copy waits for nothing

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        thread, inside = threading.get_ident(), self._finder.inside
        is_outer = thread not in inside
        inside.add(thread)
        try:
            self._loader.exec_module(module)
        finally:
            if is_outer:
                inside.discard(thread)
        action = self._finder.actions.get(module.__name__)
        if action is not None:
            action(module)
            self._finder.actions.pop(module.__name__, None)  # not before: if it fails, the next import tries again


def _itself(loader: Any) -> Any:
    return loader
