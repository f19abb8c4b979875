"""The proof for CI that conformance ran: a line in the file that CREW_EXECUTOR_CONFORMANCE_LOG names.

"<environment> <python version> <tests passed> ran", or "... missing" on an interpreter without the standard library's
tests. With CREW_EXECUTOR_REQUIRE_CONFORMANCE=1 such an interpreter fails rather than skips.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

LOG = "CREW_EXECUTOR_CONFORMANCE_LOG"
REQUIRE = "CREW_EXECUTOR_REQUIRE_CONFORMANCE"


def is_required() -> bool:
    """Whether an interpreter without the standard library's tests is an error."""
    return os.environ.get(REQUIRE, "") not in {"", "0"}


def line(*, passed: int) -> str:
    """Say what this interpreter proved."""
    environment = os.environ.get("TOX_ENV_NAME", "-")
    verdict = f"{passed} ran" if passed else "missing"
    return f"{environment} {platform.python_version()} {verdict}"


def write(*, passed: int) -> None:
    """Add the line to the file, if one is named."""
    if path := os.environ.get(LOG):
        with Path(path).open("a", encoding="utf-8") as log:
            log.write(line(passed=passed) + "\n")
