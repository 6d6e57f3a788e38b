"""``python -m autopack_mcp`` is the ``autopack-mcp`` command."""

from autopack_mcp.cli.main import main

if __name__ == "__main__":
    main()
