"""Money is integer nano-dollars everywhere; this is the one place that says how many make a dollar."""

from __future__ import annotations

NANO_PER_USD = 1_000_000_000
