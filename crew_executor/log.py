"""The package's logger. Nothing prints; whoever wants to see more configures logging for "crew_executor"."""

from __future__ import annotations

import logging

logger = logging.getLogger("crew_executor")
logger.addHandler(logging.NullHandler())
