"""What is granted by paths takes these paths alone: compiled scopes, looked up as Envoy does, against the plain rules."""

from __future__ import annotations

from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from controlplane.compile.compiler import Compiler
from controlplane.names import GatewayName
from controlplane.spec.gateway import KINDS
from controlplane.spec.rows import rows
from tests.compile import worlds
from tests.compile.delegation_cases import World
from tests.compile.lookup import Lookup
from tests.compile.shard_cases import GROUP


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
@example(101813)  # equal templates of two teams: the older one's is tried first
def test_shards_hold_what_the_plain_rules_say(seed: int) -> None:
    random = Random(seed)
    world = World(random)
    compiler = Compiler()
    for document in (world.gateway, *world.specs):
        ref = worlds.ref(document)
        age = world.ages.get(ref.namespace, "")
        compiler.put(ref, rows(ref, KINDS[ref.kind].model_validate(document), age))
    compiler.commit_now()
    assert not list(compiler.tables.graph.failures())
    shards = Lookup(compiler.resources((GatewayName("platform/shop"),)), GROUP)
    for _ in range(60):
        asked = world.request(random)
        assert shards.decide(asked) == world.decide(asked), asked
