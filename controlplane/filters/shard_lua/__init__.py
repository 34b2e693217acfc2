"""Finds the route shard of a request whose first guess held no route."""
