"""Tally counts words."""
