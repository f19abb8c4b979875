"""Fixtures of the engines' tests: what leaves a process, thread or descriptor here fails."""

from __future__ import annotations

from integration.conftest import _no_leaks, _warm_up

__all__ = ["_no_leaks", "_warm_up"]
