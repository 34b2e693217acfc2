"""The admin API: it only looks. JSON over HTTP on loopback, health, readiness and metrics."""
