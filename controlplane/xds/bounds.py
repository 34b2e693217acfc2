"""The bounds of a stream: how long it waits, and what a peer may ask of us.

Sessions and the server are given these; nothing here depends on anything else.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one step waits for another, in seconds. Every wait is bounded, and holds one stream only."""

    phase: float = 5.0
    """For the ACK of a change, before what depends on it goes out all the same."""
    answer: float = 0.5
    """For the ACK of an answer to a first request or a resume: the client may well not wait for anything."""
    warming: float = 0.5
    """For a client to ask for the load assignment of a new cluster, from its ACK of the cluster: Envoy does at once."""
    grace: float = 0.2
    """After a resume, for the requests of the other types, before anything that the client still holds is removed."""
    refused: float = 300.0
    """For removals after a NACK: what the client goes on using may need what would be removed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may ask of us; beyond it the stream ends."""

    message_bytes: int = 16 << 20
    names: int = 100_000
    """Names of one type that a stream may subscribe to, and that one request may hold."""
    name_characters: int = 4096
    types: int = 32
    detail_characters: int = 2000
    """Of a NACK's message, that are kept."""
    reported_names: int = 64
    """Of a refused response, that are kept."""
    remembered_pushes: int = 64
    """Responses without an ACK whose nonces are remembered, for each type."""
    streams: int = 10_000
    """Streams that the server holds; further ones are refused."""
    connection_streams: int = 100
    """Concurrent streams of one connection: Envoy uses one, or one a type."""
