"""The documents that people write: models, parser, schema, and their split into rows. No Envoy, no I/O."""
