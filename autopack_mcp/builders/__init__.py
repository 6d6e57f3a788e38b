"""Whoever writes a change: the protocol of a builder, and those that keep it."""
