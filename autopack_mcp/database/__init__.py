"""The one truth: tables, the engine that reads them, and the single writer of each process."""
