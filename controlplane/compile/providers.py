"""JWT providers: whether their keys can be had, and which headers only they may set.

What a provider writes its claims to is removed from every request on every listener of a proxy, whatever gateway it is
for, before tokens are looked for. So such a header of one gateway cannot be where another one on the same proxies takes
its tokens from: the older gateway keeps its meaning of the header, and the provider of the other one is out of use.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING

from controlplane.compile import codes
from controlplane.compile.rows import Issue, ProviderStatus, excluded
from controlplane.filters.jwt.compile import jwks_address
from controlplane.filters.jwt.key_set import usable_keys
from controlplane.filters.jwt.spec import JwtProvider
from controlplane.graph.engine import Index, Read
from controlplane.names import ElementKey, GatewayName, SecretRef
from controlplane.spec.rows import Element

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables

ByHeader = Index[ElementKey, Element, str]


def provider_state(
    read: Read, tables: Tables, key: ElementKey, element: Element
) -> Iterator[tuple[ElementKey, ProviderStatus]]:
    """The state of one provider. Lost keys close its routes: authentication fails closed."""
    provider = element.part
    assert isinstance(provider, JwtProvider)
    if (issue := _misread(read, tables, key, element.gateway, provider)) is not None:
        read.note(issue)
        yield key, ProviderStatus(issue.message)
        return
    for index, place in enumerate(provider.from_):
        if place.cookie is not None and not provider.forward:
            message = f'backends get the token in cookie "{place.cookie}": Envoy removes no cookies'
            help = "say forward: true where they may have it"
            path = f"from[{index}].cookie"
            read.note(Issue(key, path, codes.IMPOSSIBLE, message, help, error=False, section="identity.jwt"))
    for claim, header in provider.claims_to_headers.items():
        if "." in claim and "/" in claim:
            message = f'"{header}" is never set: Envoy takes each "." in "{claim}" for a step into an object'
            help = "have the issuer say it in a claim without dots as well"
            read.note(Issue(key, "claimsToHeaders", codes.IMPOSSIBLE, message, help, False, "identity.jwt"))
    if provider.jwks.uri is not None and _in_clear(provider.jwks.uri):
        message = "keys that come over http: whoever is on the way can give others, and sign any token"
        help = "use https:, or keys from a secret"
        read.note(Issue(key, "jwks.uri", codes.CLEAR_KEYS, message, help, error=False, section="identity.jwt"))
    if provider.jwks.inline is not None:
        yield key, ProviderStatus(None, provider.jwks.inline)
    elif provider.jwks.secret_ref is None:
        yield key, ProviderStatus(None)
    else:
        yield key, _from_secret(read, tables, key, provider.jwks.secret_ref, provider.jwks.key)


def _in_clear(uri: str) -> bool:
    """Whether what is fetched there crosses a network that others may be on."""
    scheme, host, _ = jwks_address(uri)
    if scheme == "https" or host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True


def _from_secret(read: Read, tables: Tables, key: ElementKey, name: str, file: str) -> ProviderStatus:
    """The state of a provider whose keys are in a secret."""
    secret_ref = SecretRef(key.object.source, key.object.namespace, name)
    secret = read.get(tables.secrets, secret_ref)
    text = secret.get(file) if secret else None
    if text is None:
        code, help = codes.UNKNOWN_SECRET, "its routes answer 503 until it is there"
        problem = f'no secret "{secret_ref}"' if secret is None else f'secret "{secret_ref}" has no {file}'
    else:
        try:
            return ProviderStatus(None, usable_keys(text))
        except ValueError as error:
            code, help = codes.UNUSABLE_SECRET, "its routes answer 503"
            problem = f'secret "{secret_ref}", {file}: {error}'
    read.note(Issue(key, "jwks.secretRef", code, problem, help, section="identity.jwt"))
    return ProviderStatus(problem)


def _misread(read: Read, tables: Tables, key: ElementKey, gateway: GatewayName, provider: JwtProvider) -> Issue | None:
    """What is wrong when a header would be both a claim that the gateway vouches for, and a token of a client."""
    given_up = read.get(tables.given_up_headers, gateway) or frozenset()
    for header in sorted(given_up.intersection(provider.claims_to_headers.values())):
        owner = next(_older(read, tables.providers_by_token_header, tables, gateway, header))
        message = f'"{header}" is where gateway {owner} takes its tokens from, on the same proxies'
        help = "give the claim another header; its routes answer 503 until then"
        return Issue(key, "claimsToHeaders", codes.CONFLICT, message, help, section="identity.jwt")
    path, here = "from" if provider.from_ else "", read.get(tables.identity_headers, gateway) or frozenset()
    for header in provider.token_headers():
        message = f'no token reaches it: "{header}" is a header of claimsToHeaders'
        if header in here:
            help = "give the claim a header of its own; its routes answer 503 until then"
            issue = f"{message}, which clients may not send"
            return Issue(key, path, codes.IDENTITY_HEADER, issue, help, section="identity.jwt")
        if (other := next(_older(read, tables.providers_by_claim_header, tables, gateway, header), None)) is not None:
            issue = f"{message} of gateway {other}, on the same proxies"
            help = "take the token from another place; its routes answer 503 until then"
            return Issue(key, path, codes.CONFLICT, issue, help, section="identity.jwt")
    return None


def _older(read: Read, providers: ByHeader, tables: Tables, gateway: GatewayName, header: str) -> Iterator[GatewayName]:
    """Older gateways that share proxies with this one and use a header."""
    others = {element.gateway for _, element in read.find(providers, header)} - {gateway}
    row = read.get(tables.gateways, gateway) if others else None
    for other in sorted(others if row is not None else ()):
        rival = read.get(tables.gateways, other)
        assert row is not None
        if rival is not None and not excluded(rival.labels, row.labels) and (rival.claim, other) < (row.claim, gateway):
            yield other


def claim_headers(_: ElementKey, element: Element) -> set[str]:
    """The headers that a provider writes claims to."""
    assert isinstance(element.part, JwtProvider)
    return set(element.part.claims_to_headers.values())


def token_headers(_: ElementKey, element: Element) -> set[str]:
    """The headers that a provider takes tokens from."""
    assert isinstance(element.part, JwtProvider)
    return set(element.part.token_headers())


def given_up_headers(
    read: Read, tables: Tables, gateway: GatewayName, members: tuple[tuple[ElementKey, Element], ...]
) -> Iterator[tuple[GatewayName, frozenset[str]]]:
    """The claim headers of a gateway that hold tokens of an older one; they must not be removed for that one."""
    names = {header for member in members for header in claim_headers(*member)}
    if lost := {name for name in names if any(_older(read, tables.providers_by_token_header, tables, gateway, name))}:
        yield gateway, frozenset(lost)


def identity_headers(
    read: Read, tables: Tables, gateway: GatewayName, members: tuple[tuple[ElementKey, Element], ...]
) -> Iterator[tuple[GatewayName, frozenset[str]]]:
    """The headers that providers of a gateway set, and that nobody else may."""
    given_up = read.get(tables.given_up_headers, gateway) or frozenset()
    if names := {header for member in members for header in claim_headers(*member) if header not in given_up}:
        yield gateway, frozenset(names)
