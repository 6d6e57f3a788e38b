"""A plan: what a person wants built, read from YAML or a predecessor's JSON, checked whole before anything starts."""
