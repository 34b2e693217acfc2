"""JWT providers: whether their keys can be had, and which headers only they may set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.compile import codes
from controlplane.compile.rows import Issue, ProviderStatus
from controlplane.filters.jwt.key_set import key_set_problem
from controlplane.filters.jwt.spec import JwtProvider
from controlplane.graph.engine import Read
from controlplane.names import ElementKey, GatewayName, SecretRef
from controlplane.spec.rows import Element

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables


def provider_state(
    read: Read, tables: Tables, key: ElementKey, element: Element
) -> Iterator[tuple[ElementKey, ProviderStatus]]:
    """The state of one provider. Lost keys close its routes: authentication fails closed."""
    provider = element.part
    assert isinstance(provider, JwtProvider)
    set_here = read.get(tables.identity_headers, element.gateway) or frozenset()
    if unreadable := [name for name in provider.token_headers() if name in set_here]:
        taken = f'no token reaches it: "{unreadable[0]}" is a header of claimsToHeaders, which clients may not send'
        help = "give the claim a header of its own; its routes answer 503 until then"
        read.note(
            Issue(key, "from" if provider.from_ else "", codes.IDENTITY_HEADER, taken, help, section="identity.jwt")
        )
        yield key, ProviderStatus(taken)
    elif provider.jwks.inline is not None:
        yield key, ProviderStatus(None, provider.jwks.inline)
    elif provider.jwks.secret_ref is None:
        yield key, ProviderStatus(None)
    else:
        secret_ref = SecretRef(key.object.source, key.object.namespace, provider.jwks.secret_ref)
        secret = read.get(tables.secrets, secret_ref)
        key_set = secret.get(provider.jwks.key) if secret else None
        if key_set is None:
            missing = (
                f'no secret "{secret_ref}"' if secret is None else f'secret "{secret_ref}" has no {provider.jwks.key}'
            )
            read.note(
                Issue(
                    key,
                    "jwks.secretRef",
                    codes.UNKNOWN_SECRET,
                    missing,
                    "its routes answer 503 until it is there",
                    section="identity.jwt",
                )
            )
            yield key, ProviderStatus(missing)
        elif problem := key_set_problem(key_set):
            message = f'secret "{secret_ref}", {provider.jwks.key}: {problem}'
            read.note(
                Issue(
                    key,
                    "jwks.secretRef",
                    codes.UNUSABLE_SECRET,
                    message,
                    "its routes answer 503",
                    section="identity.jwt",
                )
            )
            yield key, ProviderStatus(message)
        else:
            yield key, ProviderStatus(None, key_set.decode())


def identity_headers(
    _: Read, gateway: GatewayName, members: tuple[tuple[ElementKey, Element], ...]
) -> Iterator[tuple[GatewayName, frozenset[str]]]:
    """The headers that providers of a gateway set, and that nobody else may."""
    names = {
        header
        for _, element in members
        if isinstance(element.part, JwtProvider)
        for header in element.part.claims_to_headers.values()
    }
    if names:
        yield gateway, frozenset(names)
