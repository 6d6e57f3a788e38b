"""Which machine a number was measured on: it stands beside every result, because only ratios travel."""

from __future__ import annotations

import os
import platform
import sqlite3


def machine() -> str:
    """The processor, how many of it, the system, and the versions that decide about speed."""
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, {versions}"
