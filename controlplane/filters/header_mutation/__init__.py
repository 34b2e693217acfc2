"""Headers set, added and removed, in both directions."""
