"""What the demo's workers run: analyse one Python source file; hold a worker until somebody kills it.

A module of its own because a task travels by name: a worker imports this file and nothing else of the demo.
It imports nothing of ours, prints nothing, and gives the same answer in a worker and in the client.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import time
import tokenize
import warnings
import zlib
from dataclasses import dataclass
from types import ModuleType

lzma: ModuleType | None
try:
    import lzma
except ImportError:  # a Python built without liblzma: common with pyenv, and no reason not to run
    lzma = None

__all__ = ["FileReport", "analyse_file", "hold_worker"]

# Preset 2 needs 17 MB in each worker; the default, 6, needs 94 MB and compresses these small texts hardly better.
LZMA_PRESET = 2

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension, ast.BoolOp)
_BLOCKS = (
    *_FUNCTIONS,
    *(ast.ClassDef, ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Match, ast.Try),
    getattr(ast, "TryStar", ast.Try),  # since Python 3.11
)


@dataclass(frozen=True)
class FileReport:
    """What one file's analysis found; equal whenever the file and the Python are.

    Attributes:
        text_bytes: size of the text as UTF-8.
        nesting: depth of the most deeply nested block; 0 for a module of plain statements.
        branches: decisions in the whole file (McCabe's count without the one per function).
        zlib_bytes: size of the compressed text.
        lzma_bytes: the same by lzma; None where this Python has no lzma.
        digest: sha256 of the text.
    """

    text_bytes: int
    lines: int
    functions: int
    classes: int
    tokens: int
    nesting: int
    branches: int
    zlib_bytes: int
    lzma_bytes: int | None
    digest: str


def analyse_file(path: str) -> FileReport:
    """Parse, compile, count, measure and compress one source file.

    Raises whatever the file deserves: SyntaxError, UnicodeDecodeError, OSError. Warns of what its compilation warns of.
    """
    text = read_source(path)
    tree = parse_source(text, path)
    functions, classes, nesting, branches = measure_tree(tree)
    tokens = sum(1 for _ in tokenize.generate_tokens(io.StringIO(text).readline))
    raw = text.encode("utf-8", "surrogatepass")
    return FileReport(
        text_bytes=len(raw),
        lines=text.count("\n") + (not text.endswith("\n") and bool(text)),
        functions=functions,
        classes=classes,
        tokens=tokens,
        nesting=nesting,
        branches=branches,
        zlib_bytes=len(zlib.compress(raw, 9)),
        lzma_bytes=len(lzma.compress(raw, preset=LZMA_PRESET)) if lzma else None,
        digest=hashlib.sha256(raw).hexdigest(),
    )


def read_source(path: str) -> str:
    """Read a file in the encoding that it declares."""
    with tokenize.open(path) as source:
        return source.read()


def parse_source(text: str, path: str) -> ast.Module:
    """Parse and compile, with every warning let through, whatever filters the process has.

    Compiling matters: much of what is wrong in real files (a late `__future__` import, `x is 1`) the parser accepts.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        tree = ast.parse(text, path)
        # dont_inherit: this module's own `from __future__ import annotations` must not hold for the file.
        compile(tree, path, "exec", dont_inherit=True)
    return tree


def measure_tree(tree: ast.Module) -> tuple[int, int, int, int]:
    """Count functions, classes, the deepest nesting of blocks, and branches.

    Without recursion: an expression nested a thousand deep is legal Python and must not depend on our stack.
    """
    functions = classes = deepest = branches = 0
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        functions += isinstance(node, _FUNCTIONS)
        classes += isinstance(node, ast.ClassDef)
        branches += isinstance(node, _BRANCHES)
        inside = depth + isinstance(node, _BLOCKS)
        deepest = max(deepest, inside)
        chained = chained_elif(node)
        for child in ast.iter_child_nodes(node):
            waiting.append((child, depth if child is chained else inside))
    return functions, classes, deepest, branches


def chained_elif(node: ast.AST) -> ast.If | None:
    """Return the `elif` of an `if`: the tree nests it, the reader of the file does not."""
    if isinstance(node, ast.If) and len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
        return node.orelse[0]
    return None


def hold_worker(pid_path: str, seconds_max: float) -> str:
    """Write this process's id to `pid_path`, then hold the worker until it is killed, or `seconds_max` have passed."""
    # Written aside and renamed, so that the reader never sees half a number.
    written = f"{pid_path}.new"
    with open(written, "w", encoding="ascii") as pid_file:
        pid_file.write(str(os.getpid()))
    os.replace(written, pid_path)
    deadline = time.monotonic() + seconds_max
    while time.monotonic() < deadline:
        time.sleep(0.05)
    return f"process {os.getpid()} was not killed in {seconds_max:g} s"
