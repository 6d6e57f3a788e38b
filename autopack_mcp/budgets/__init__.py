"""Caps that hold: tokens are reserved before a call leaves and settled when the truth is known."""
