"""models.yaml: providers and caps, models, who answers what; read, checked whole, and read again when it changes."""
