"""Tokens in queries: what is left of a query when one was taken out of it."""
