"""One file a step, named by its number and its effect.

A step that was released is never edited again: somebody's database already stands behind it. Change the schema with a
new file, and ``HEAD`` in ``migrate`` with it.
"""
