"""Which model answers, and why: the baseline, people's overrides, and what quota leaves."""
