"""The command line: parse, call, print. One module per kind of verb; nothing here decides anything."""
