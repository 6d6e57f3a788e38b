"""Alembic migrations, oldest first; one is never edited after a release."""
