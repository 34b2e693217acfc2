"""Pure functions from rows to Envoy resources, and the tables that wire them. Read `pipeline.py` first."""
