"""The bootstrap of a gRPC client or server without a proxy: where its control plane is, who it is, its certificates.

The `bootstrap --grpc` command calls it. gRPC reads certificates from files alone, so they lie beside the document:
`GRPC_XDS_BOOTSTRAP` names the document, and the document names them. Plain data, no gRPC here.
https://github.com/grpc/proposal/blob/master/A27-xds-global-load-balancing.md#xds-bootstrap-file, A29 (certificate
providers), A36 (servers), A65 (TLS to the control plane)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controlplane.bootstrap import reachable
from controlplane.names import GRPC_PROVIDER, GRPC_SERVER_PROVIDER, GRPC_SERVER_TEMPLATE

SYSTEM_TRUST = Path("/etc/ssl/certs/ca-certificates.crt")
"""The public authorities; a provider without any file is an error to gRPC."""

REFRESH = "60s"
"""How often gRPC looks for renewed files."""


def grpc_bootstrap(
    node_id: str,
    cluster: str,
    labels: Mapping[str, str],
    xds_address: str,
    certificates: Path | None,
    backend_authorities: Path | None = None,
    *,
    insecure: bool = False,
) -> dict[str, Any]:
    """The document. `certificates` is the folder with the pairs `node` and `server`, and `ca.crt`.

    `backend_authorities` is a file of those who sign certificates of backends; unsaid, it is the control plane's own, or
    the public ones where there are no certificates. `insecure`: without TLS to the control plane, on loopback only.
    Raises ConfigurationError.
    """
    reachable(xds_address, insecure=insecure)
    folder = certificates.absolute() if certificates is not None else None
    authorities = backend_authorities.absolute() if backend_authorities is not None else _authorities(folder)
    return {
        "xds_servers": [
            {
                "server_uri": xds_address,
                "channel_creds": [
                    {"type": "insecure"}
                    if insecure
                    else {"type": "tls", "config": _files(folder, "node", _authorities(folder))}
                ],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {
            "id": node_id,
            "cluster": cluster,
            "metadata": {"labels": dict(sorted(labels.items()))},
            "locality": {},  # gRPC for Node.js takes no bootstrap without one
        },
        "certificate_providers": {
            GRPC_PROVIDER: {"plugin_name": "file_watcher", "config": _files(folder, "node", authorities)},
            GRPC_SERVER_PROVIDER: {"plugin_name": "file_watcher", "config": _files(folder, "server", authorities)},
        },
        "server_listener_resource_name_template": GRPC_SERVER_TEMPLATE,
    }


def _authorities(folder: Path | None) -> Path:
    return folder / "ca.crt" if folder is not None else SYSTEM_TRUST


def _files(folder: Path | None, pair: str, authorities: Path) -> dict[str, str]:
    found = {"ca_certificate_file": str(authorities), "refresh_interval": REFRESH}
    if folder is not None:
        found |= {"certificate_file": str(folder / f"{pair}.crt"), "private_key_file": str(folder / f"{pair}.key")}
    return found


def render(document: Mapping[str, Any]) -> str:
    """The document as JSON for people."""
    return json.dumps(document, indent=2)
