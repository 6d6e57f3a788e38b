"""What was spent: reading a provider's usage, pricing it, recording it once, and summing it up."""
