"""What sources deliver and specs are made of: scalars, object references, secrets, endpoints. No Envoy, no I/O."""
