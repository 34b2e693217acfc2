"""Token buckets inside each Envoy."""
