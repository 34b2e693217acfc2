"""Incremental computation over keyed tables. It knows no word of the domain."""
