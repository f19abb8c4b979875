"""What joblib's backend does first in a worker: before joblib is imported there, and with it numpy.

Must not import joblib: the libraries that joblib brings read these variables once, when they are loaded.
"""

from __future__ import annotations

import os


def set_variables(variables: dict[str, str]) -> None:
    """Set environment variables; an initializer."""
    os.environ.update(variables)
