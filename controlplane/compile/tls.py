"""TLS in both directions, and the secrets it needs, as Envoy reads them. Private keys travel by SDS alone, never inside a listener."""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2, config_source_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BoolValue

from controlplane.filters.envoy import packed
from controlplane.model.secret import Secret
from controlplane.names import SecretRef, certificate_name, trust_name
from controlplane.spec.backend import Backend

_VERSIONS = {"1.2": common_pb2.TlsParameters.TLSv1_2, "1.3": common_pb2.TlsParameters.TLSv1_3}

CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)
"""TLS 1.2 only with forward secrecy and authenticated encryption. (docs/security.md)"""

SYSTEM_TRUST = "/etc/ssl/certs/ca-certificates.crt"
"""The public authorities on a proxy, for backends that name no `ca`. No spec can name another file."""


def ads() -> Any:
    """Comes over the aggregated stream; wait for it as long as it takes, rather than run without."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        resource_api_version=config_source_pb2.ApiVersion.V3,
        initial_fetch_timeout=Duration(),
    )


def parameters(min_version: str) -> Any:
    """Versions and ciphers."""
    return common_pb2.TlsParameters(
        tls_minimum_protocol_version=_VERSIONS[min_version],
        tls_maximum_protocol_version=_VERSIONS["1.3"],
        cipher_suites=CIPHERS,
    )


def downstream(certificate: SecretRef, min_version: str) -> Any:
    """The TLS of a filter chain."""
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=tls_pb2.CommonTlsContext(
            tls_params=parameters(min_version),
            tls_certificate_sds_secret_configs=[
                secret_pb2.SdsSecretConfig(name=certificate_name(certificate), sds_config=ads())
            ],
            alpn_protocols=["h2", "http/1.1"],
        ),
        # Tickets would outlive the keys that nobody rotates.
        disable_stateless_session_resumption=True,
        require_client_certificate=BoolValue(value=False),
    )
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def upstream(backend: Backend, namespace: tuple[str, str]) -> Any:
    """The TLS of a cluster: chain and name of the backend are always verified. `namespace` is (source, namespace)."""
    spec = backend.tls
    assert spec is not None
    names = sorted(spec.san_match) or sorted(
        {spec.sni} if spec.sni else {member.dns.host for member in backend.members if member.dns}
    )
    validation = common_pb2.CertificateValidationContext(
        match_typed_subject_alt_names=[
            common_pb2.SubjectAltNameMatcher(san_type=kind, matcher=matcher)
            for name in names
            for kind, matcher in _san_matchers(name)
        ]
    )
    common = tls_pb2.CommonTlsContext(tls_params=parameters("1.2"), alpn_protocols=spec.alpn)
    if spec.ca is not None:
        trust = SecretRef(*namespace, spec.ca.secret_ref)
        common.combined_validation_context.CopyFrom(
            tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
                default_validation_context=validation,
                validation_context_sds_secret_config=secret_pb2.SdsSecretConfig(
                    name=trust_name(trust, spec.ca.key or "ca.crt"), sds_config=ads()
                ),
            )
        )
    else:
        validation.trusted_ca.CopyFrom(base_pb2.DataSource(filename=SYSTEM_TRUST))
        common.validation_context.CopyFrom(validation)
    if spec.client_certificate is not None:
        client = SecretRef(*namespace, spec.client_certificate.secret_ref)
        common.tls_certificate_sds_secret_configs.add(name=certificate_name(client), sds_config=ads())
    context = tls_pb2.UpstreamTlsContext(common_tls_context=common, sni=spec.sni or "")
    if not spec.sni:
        context.auto_host_sni = True
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def _san_matchers(name: str) -> list[tuple[Any, Any]]:
    kinds = common_pb2.SubjectAltNameMatcher.SanType
    if "://" in name:
        return [(kinds.URI, string_pb2.StringMatcher(exact=name))]
    if name.replace(".", "").isdigit() or ":" in name:
        return [(kinds.IP_ADDRESS, string_pb2.StringMatcher(exact=name))]
    # Envoy understands a wildcard in the certificate for an exact name; a wildcard here is a suffix.
    text = {"suffix": name[1:]} if name.startswith("*.") else {"exact": name}
    return [(kinds.DNS, string_pb2.StringMatcher(**text, ignore_case="suffix" in text))]


def certificate(secret: Secret, name: str) -> Any:
    """The SDS resource of a certificate with its key."""
    return secret_pb2.Secret(
        name=name,
        tls_certificate=common_pb2.TlsCertificate(
            certificate_chain=base_pb2.DataSource(inline_bytes=secret.get("tls.crt") or b""),
            private_key=base_pb2.DataSource(inline_bytes=secret.get("tls.key") or b""),
        ),
    )


def trust(secret: Secret, key: str, name: str) -> Any:
    """The SDS resource of certificate authorities."""
    return secret_pb2.Secret(
        name=name,
        validation_context=common_pb2.CertificateValidationContext(
            trusted_ca=base_pb2.DataSource(inline_bytes=secret.get(key) or b"")
        ),
    )
