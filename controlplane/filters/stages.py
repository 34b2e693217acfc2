"""The order of filters. A filter declares its stage; nobody keeps a list of filters in order by hand."""

from __future__ import annotations

from enum import IntEnum


class Stage(IntEnum):
    """Where in the chain a filter stands; a request passes them from the top."""

    FALLBACK_SELECTION = 0
    """The selections of a route come before everything: what follows must see the one that is taken in the end."""
    HOST_SELECTION = 1
    WILDCARD_SELECTION = 2
    SANITATION = 10
    """Removes what only the gateway may say."""
    FLOOD_PROTECTION = 20
    """Limits that must hold before any expensive work."""
    CORS = 30
    """Preflight requests carry no credentials: they are answered before authentication."""
    BEFORE_AUTHENTICATION = 38
    """Notes what authentication changes beyond what it should."""
    AUTHENTICATION = 40
    AFTER_AUTHENTICATION = 42
    """Puts that right."""
    AUTHORISATION = 50
    RATE_LIMIT = 60
    TRANSFORMATION = 70
    ROUTER = 100
