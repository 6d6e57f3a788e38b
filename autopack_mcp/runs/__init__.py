"""How a run lives: its records and states, the workspace it works in, and the supervisor that moves it."""
