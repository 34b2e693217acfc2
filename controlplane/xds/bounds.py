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
    silent: float = 35.0
    """Beyond that, for a client that has said nothing at all since: it stands still, and would read all of it at once when it goes
    on, routes before it can ask for the endpoints of their clusters. Its stream ends before that, when it answers no ping."""
    overslept: float = 1.0
    """By how much a poll that was due may be late. After more this process stood still, which counts for no wait: what clients
    said meanwhile is read in a moment, for which as much is added to the waits."""
    answer: float = 0.5
    """For the ACK of an answer to a first request: the client may well not wait for anything. What changed while it was away is a
    change."""
    warming: float = 0.5
    """For a client to ask for the load assignment of a new cluster, from its ACK of the cluster: Envoy does at once."""
    grace: float = 0.2
    """After a resume, for the requests of the other types, before what depends on them is sent."""
    keeps: float = 1.0
    """After a resume, before anything that the client still holds is removed: requests come together, but for a packet that is
    lost and repeated, and what is gone is in nobody's way."""
    refused: float = 300.0
    """For removals after a NACK: what the client goes on using may need what would be removed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may ask of us; beyond it the stream ends."""

    message_bytes: int = 16 << 20
    response_bytes: int = 4 << 20
    """What a gRPC client takes unless it was told otherwise: larger responses are split where the protocol lets them."""
    response_changes: int = 500
    """Changed resources of a delta response: while more were encoded, no other stream and no endpoint would have its turn."""
    names: int = 50_000
    """Names that a stream may subscribe to, and that one request may hold; what comes by wildcard needs none. As many
    versions, with which a client comes back."""
    name_characters: int = 4096
    parameters: int = 50_000
    """Context parameters of all names of one request: each is decoded, sorted and encoded again, which takes 2 us."""
    parameter_characters: int = 1 << 20
    """Of all parameters of one request: those of 20,000 names may have 50 each."""
    collections: int = 64
    """Of the names of a stream: what is in them is looked for in all that there is."""
    version_characters: int = 256
    """Of the version with which a client of the state of the world comes back; ours have 16."""
    types: int = 16
    """Of one stream, those included that nobody knows."""
    detail_characters: int = 2000
    """Of a NACK's message, that are kept."""
    reported_names: int = 64
    """Of a refused response, that are kept."""
    trials: int = 32
    """Responses in a row that may be refused while it is searched for what is to blame: 2 for each halving."""
    remembered_pushes: int = 64
    """Responses without an ACK whose nonces are remembered, for each type."""
    streams: int = 10_000
    """Streams that the server holds; further ones are refused."""
    identity_streams: int = 1_024
    """Streams of one certificate or node. A proxy has one, or one a type, and twice that while it restarts; a fleet may
    share an identity. Of all streams it is a tenth: nobody is kept out by one."""
    openings_burst: int = 3_000
    openings_per_second: float = 300.0
    """A fleet may come at once; what comes again and again is slowed down."""
    identity_openings_burst: int = 1_000
    identity_openings_per_second: float = 50.0
    """The same for the streams of one identity, so that one that flaps does not use up what is for all."""
    refusal_seconds: float = 1.0
    """Before an identity that opens too much is told so: with the streams of a connection bounded, this bounds how often
    it can ask."""
    identity_requests_burst: int = 40_000
    identity_requests_per_second: float = 500.0
    """Requests of one identity that no response of ours brought about. At the start an Envoy asks for thousands of
    names, in a few requests or in one each; a fleet of 1,000 that shares a certificate comes back with 5,000 names and
    their versions each (29 by the next line), and asks for ten things more."""
    request_bytes: int = 16_384
    """A request counts once more for each so many bytes."""
    node_change_requests: int = 500
    """Requests for which one counts in which a node says something else of itself: all that it sees is compared anew,
    tens of milliseconds for thousands of resources. So it may do it once a second, and 80 times at once."""
    beginning_streams: int = 16
    """First answers that are made at a time: a large one is some megabytes until the peer has read it. A quarter of them
    for one identity at most (without a certificate: for one connection)."""
    beginning_seconds: float = 2.0
    """After which the next one begins although the peer has not read its first answer."""
    waiting_streams: int = 4_000
    waiting_seconds: float = 10.0
    """For a turn; clients take 15 s without an answer for "there is nothing"."""
    first_request_seconds: float = 15.0
    """A stream that has said nothing by then is ended."""
    handshake_seconds: float = 10.0
    """For the TLS handshake and the preface of HTTP/2."""
    idle_seconds: float = 5.0
    """A connection without a stream is closed after that. More than the handshakes of a whole fleet take, or who comes back
    with it is sent away before its first request is read. And not for ever: Envoy opens streams on the connection that it
    has, so one that was refused for a certificate would go on to show the old one when it has been given another."""
    keepalive_seconds: float = 25.0
    keepalive_timeout_seconds: float = 12.0
    """A peer that does not answer a ping within that is gone: a peer that vanished is noticed within 40 s."""
    stream_age_seconds: float | None = None
    """After about which (10 % more or less) a stream that has had a response ends with OK, its connection before it."""
    connection_streams: int = 100
    """Concurrent streams of one connection: Envoy uses one, or one a type."""
