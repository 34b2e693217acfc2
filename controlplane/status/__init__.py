"""The status of custom resources: what is said of each, and by whom. It is written off the hot path, by one replica."""
