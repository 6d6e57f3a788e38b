"""What people may ask of runs, from any client: a wish is checked and written down, and a supervisor acts on it."""
