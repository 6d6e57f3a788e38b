"""The run's own clone and what happens in it: git, edits that land, commands that judge them, and its repository."""
