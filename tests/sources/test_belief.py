"""What is made of texts from the state on disk."""

from __future__ import annotations

import pytest
import yaml

from controlplane.names import ObjectRef
from controlplane.sources.belief import CLAIM, restored
from tests.e2e.plane import gateway

AGE = "2026-01-01T00:00:00Z/uid"


@pytest.mark.parametrize(("source", "claim"), [("kubernetes/eu", AGE), ("files", ""), ("consul/dc1", "")])
def test_a_restored_object_is_as_old_as_it_was(source: str, claim: str) -> None:
    """The younger of two would count until the cluster has answered. In a file anybody could write the annotation."""
    said = gateway()
    said["metadata"]["annotations"] = {CLAIM: AGE}
    spec = restored(ObjectRef(source, "GatewaySpec", "platform", "edge"), yaml.safe_dump(said))
    assert spec is not None
    assert {row.claim for row in spec.rows.values()} == {claim}
