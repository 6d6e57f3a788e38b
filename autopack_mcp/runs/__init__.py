"""How a run lives: its records and states, the steps of its phases, and the supervisor that moves it."""
