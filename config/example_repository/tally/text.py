"""Counting what stands in a text."""


def word_count(text: str) -> int:
    """How many words a text has."""
    return len(text)
