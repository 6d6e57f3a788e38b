"""Steer autonomous LLM build runs from the chat you already have open."""

__version__ = "0.1.0"
