"""R's crew in Python's words: push(), wait(), pop(). Thin, on top of the executor; no scheduler of its own.

For those who come from R, and for those who want the results of many tasks as records, in the order they come.
"""

from .controller import Controller
from .group import ControllerGroup
from .result import MapError, Result, Results
from .summary import Summary

__all__ = ["Controller", "ControllerGroup", "MapError", "Result", "Results", "Summary"]
