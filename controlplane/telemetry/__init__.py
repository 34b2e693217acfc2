"""Logs and metrics: what the process says of itself while it runs."""
