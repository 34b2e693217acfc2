"""Where rows come from. Sources push whole objects into a `Sink`, never read one, and know nothing of Envoy."""
