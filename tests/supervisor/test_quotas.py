"""What the supervisor keeps of quotas for the next front and its own next start."""

import sqlite3  # noqa: F401
from collections.abc import Iterator
from pathlib import Path
