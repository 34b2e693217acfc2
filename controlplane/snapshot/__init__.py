"""Snapshots: what is served now, by part, and what changed lately."""
