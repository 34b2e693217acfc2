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
from controlplane.names import GRPC_PROVIDER, GRPC_SERVER_TEMPLATE

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
    """The document. `certificates` is the folder with `node.crt`, `node.key` and `ca.crt`.

    `backend_authorities` is a file of those who sign certificates of backends; unsaid, it is the control plane's own.
    `insecure`: without TLS to the control plane, on loopback only. Raises ConfigurationError.
    """
    reachable(xds_address, insecure=insecure)
    document: dict[str, Any] = {
        "xds_servers": [
            {
                "server_uri": xds_address,
                "channel_creds": [{"type": "insecure"}]
                if insecure
                else [{"type": "tls", "config": _files(certificates)}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": node_id, "cluster": cluster, "metadata": {"labels": dict(sorted(labels.items()))}},
        "server_listener_resource_name_template": GRPC_SERVER_TEMPLATE,
    }
    if (files := _files(certificates, backend_authorities)) != {"refresh_interval": REFRESH}:
        document["certificate_providers"] = {GRPC_PROVIDER: {"plugin_name": "file_watcher", "config": files}}
    return document


def _files(folder: Path | None, authorities: Path | None = None) -> dict[str, str]:
    found: dict[str, str] = {}
    if folder is not None:
        whole = folder.absolute()
        found = {"certificate_file": str(whole / "node.crt"), "private_key_file": str(whole / "node.key")}
        authorities = authorities or whole / "ca.crt"
    if authorities is not None:
        found["ca_certificate_file"] = str(authorities.absolute())
    return found | {"refresh_interval": REFRESH}


def render(document: Mapping[str, Any]) -> str:
    """The document as JSON for people."""
    return json.dumps(document, indent=2)
