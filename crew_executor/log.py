"""The package's logger. Nothing of ours prints; whoever wants to see more configures logging for "crew_executor".

It has no NullHandler: with that, warnings would be lost where nobody has configured logging, and those who need them
most have not. Python shows them on stderr then.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("crew_executor")
