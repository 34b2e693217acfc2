"""The guard against mass removal, on a clock of its own."""

from __future__ import annotations

from pathlib import Path

from controlplane.app.memory import Memory
from controlplane.app.sources import make_sources
from controlplane.config import read
from controlplane.model.endpoint import Endpoint, Service
from controlplane.names import ServiceRef
from controlplane.sources.guard import WINDOW, EndpointGuard, Limits, ObjectGuard
from tests.support.services import service

LIMITS = Limits(share=0.5, hold=600, minimum=3)
EVERYWHERE = """\
sources:
  kubernetes: [{name: one, kubeconfig: kubeconfig, specs: true}]
  consul: [{name: dc, address: "http://127.0.0.1:9", specs: specs/}]
guards: {hold: 7s}
"""
A, B = ServiceRef("kubernetes/eu", "shop", "a"), ServiceRef("kubernetes/eu", "shop", "b")


def of(*numbers: int) -> Service:
    return service({"ports": {"http": 80}, "endpoints": [f"10.0.0.{number}" for number in numbers]})


def heard(_: object) -> bool:
    return True


def guard(**services: Service) -> EndpointGuard:
    made = EndpointGuard(LIMITS)
    for name, found in services.items():
        made.restore(ServiceRef("kubernetes/eu", "shop", name), found)
    return made


def test_what_is_configured_holds_for_every_source(tmp_path: Path) -> None:
    """Also for specs whose definition or prefix is gone: one time for all that is gone without a proof."""
    file = tmp_path / "controlplane.yaml"
    file.write_text(EVERYWHERE)
    (tmp_path / "kubeconfig").touch()
    memory = Memory.open(tmp_path / "state", None)
    try:
        found = make_sources(read(file), memory)
    finally:
        memory.close()
    assert {source.name: source.hold_seconds for source in found if source.name != "files"} == {
        "kubernetes/one": 7.0,
        "consul/dc": 7.0,
    }


def test_additions_and_small_removals_are_believed_at_once() -> None:
    made = guard(a=of(1, 2, 3, 4))
    assert made.judge({A: (of(1, 2, 5), False)}, 0) == {A: of(1, 2, 5)}
    assert not made.held


def test_what_is_new_is_used_while_what_is_gone_is_held() -> None:
    made = guard(a=of(1, 2, 3, 4))
    assert made.judge({A: (of(1, 9), False)}, 0) == {A: of(1, 2, 3, 4, 9)}
    assert made.held[A].gone == 3
    assert not made.due(599, heard)
    assert made.due(600, heard) == {A: of(1, 9)}
    assert not made.held


def test_it_is_not_believed_of_a_source_that_is_not_heard_any_more() -> None:
    """What could not be confirmed then cannot be taken back now."""
    made = guard(a=of(1, 2, 3, 4))
    made.judge({A: (of(1), False)}, 0)
    assert not made.due(6000, lambda ref: ref != A)
    assert made.due(6000, heard) == {A: of(1)}
    objects: ObjectGuard[str] = ObjectGuard(LIMITS)
    assert objects.judge("files", dict.fromkeys("abc", False), 4, 0) == []
    assert objects.due(6000, lambda _: False) == []
    assert objects.due(6000, heard) == ["a", "b", "c"]


def test_a_sure_word_lifts_it() -> None:
    made = guard(a=of(1, 2, 3, 4))
    made.judge({A: (None, False)}, 0)
    assert made.judge({A: (None, True)}, 1) == {A: None}
    assert not made.held


def test_it_came_back() -> None:
    made = guard(a=of(1, 2, 3, 4))
    made.judge({A: (of(), False)}, 0)
    assert made.judge({A: (of(1, 2, 3), False)}, 1) == {A: of(1, 2, 3)}
    assert not made.held


def test_repeating_it_does_not_start_the_time_again() -> None:
    made = guard(a=of(1, 2, 3, 4))
    made.judge({A: (of(), False)}, 0)
    made.judge({A: (of(), False)}, 500)
    assert made.due(600, heard) == {A: of()}


def test_what_is_held_with_others_stays_held_when_it_is_said_again() -> None:
    """None of them is large enough by itself."""
    refs = [A._replace(name=f"s{number}") for number in range(20)]
    services = {ref: of(2 * number, 2 * number + 1) for number, ref in enumerate(refs)}
    made = guard(**{ref.name: found for ref, found in services.items()}, new=of(51, 52))
    empty = dict.fromkeys(refs, (of(), False))
    assert made.judge(empty, 0) == services
    for ref in refs:
        assert made.judge({ref: (of(), False)}, 1) == {ref: services[ref]}
    other = A._replace(name="new")
    assert made.judge({other: (of(), False)}, WINDOW + 1) == {other: of(51, 52)}, "it is one more of many"
    assert made.judge(dict.fromkeys(refs[:15], (of(51, 52), True)), WINDOW + 2)
    assert made.judge({refs[19]: (of(), False)}, WINDOW + 2) == {refs[19]: services[refs[19]]}, "nothing came back"
    assert made.judge({refs[19]: (of(38), False)}, 2 * WINDOW) == {refs[19]: of(38)}
    assert made.due(600, heard) == dict.fromkeys(refs[15:19], of())
    assert set(made.held) == {other}


def test_instances_of_one_address_differ_by_port() -> None:
    def on(*ports: int) -> Service:
        return Service((), tuple(Endpoint("10.0.0.1", (("", port),)) for port in ports))

    made = guard(a=on(1, 2, 3, 4))
    assert made.judge({A: (on(1), False)}, 0) == {A: on(1, 2, 3, 4)}
    assert made.held[A].gone == 3
    made = guard(a=on(1, 2, 3, 4))
    assert made.judge({A: (on(5, 6, 7), False)}, 0) == {A: on(5, 6, 7)}, "three of them were started anew"
    assert made.judge({A: (on(), False)}, WINDOW) == {A: on(5, 6, 7)}


def test_deleting_them_one_by_one_is_ordinary() -> None:
    made = guard(a=of(1, 2, 3, 4))
    for left in ((1, 2, 3), (1, 2), (1,), ()):
        assert made.judge({A: (of(*left), True)}, 0) == {A: of(*left)}


def test_a_source_that_loses_many_small_services_at_once() -> None:
    """None of them is large enough by itself; together they are most of what the source had."""
    made = guard(a=of(1, 2), b=of(3, 4), c=of(5))
    found = made.judge({A: (None, False), B: (None, False)}, 0)
    assert found == {A: of(1, 2), B: of(3, 4)}
    assert set(made.held) == {A, B}


def test_a_source_that_loses_them_one_after_the_other() -> None:
    """Not every source says all at once."""
    made = guard(a=of(1, 2), b=of(3, 4))
    assert made.judge({A: (None, False)}, 0) == {A: None}
    assert made.judge({B: (None, False)}, 1) == {B: of(3, 4)}
    other = guard(a=of(1, 2), b=of(3, 4))
    other.judge({A: (None, False)}, 0)
    assert other.judge({B: (None, False)}, WINDOW + 1) == {B: None}, "two are below the minimum"


def test_endpoints_that_are_not_ready_are_not_gone() -> None:
    made = guard(a=of(1, 2, 3, 4))
    unready = service(
        {"ports": {"http": 80}, "endpoints": [{"address": f"10.0.0.{n}", "health": "unhealthy"} for n in (1, 2, 3, 4)]}
    )
    assert made.judge({A: (unready, False)}, 0) == {A: unready}


def test_objects() -> None:
    made: ObjectGuard[str] = ObjectGuard(LIMITS)
    assert made.judge("files", {"a": False}, 4, 0) == ["a"]
    assert made.judge("other", {"a": False, "b": False, "c": False}, 4, 0) == []
    assert set(made.held) == {"a", "b", "c"}
    made.back("b")
    assert made.judge("other", {"a": True}, 4, 1) == ["a"]
    assert made.due(600, heard) == ["c"]
    assert not made.held


def test_half_is_not_more_than_half() -> None:
    made: ObjectGuard[str] = ObjectGuard(LIMITS)
    assert made.judge("files", dict.fromkeys("abc", False), 6, 0) == ["a", "b", "c"]
