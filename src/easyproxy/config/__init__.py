"""Configuration: the schema, and the strict loaders of YAML, TOML, JSON and the old format."""
