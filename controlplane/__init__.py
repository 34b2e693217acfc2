"""An Envoy control plane: declared gateways and discovered endpoints in, versioned Envoy resources out."""

__version__ = "0.1.0"
