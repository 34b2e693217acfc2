"""One folder for each HTTP filter that is compiled: `spec.py` (what users write), `compile.py` (what Envoy gets)."""
