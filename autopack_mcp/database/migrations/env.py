"""Alembic's entry: runs the steps on the connection that ``migrate`` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from autopack_mcp.database.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
