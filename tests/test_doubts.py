"""What is noted of edits that proxies have not taken over: what good content, if they refuse them, is made of."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.app import doubts
from controlplane.app.doubts import KIND, Doubts
from controlplane.app.fleet import RETURN_SECONDS
from controlplane.compile.rows import ResourceKey
from controlplane.names import ObjectRef
from controlplane.resources import Resource
from controlplane.snapshot.store import Store
from controlplane.sources.base import SpecObject
from controlplane.state.content import Note

PART = ("platform/edge",)
URL = "type.googleapis.com/thing"
EDGE = ObjectRef("files", "GatewaySpec", "platform", "edge")
OTHER = ObjectRef("files", "GatewaySpec", "platform", "other")


def text(port: int = 80) -> str:
    """A valid document."""
    return f"""\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {{name: edge, namespace: platform}}
spec:
  fleet: {{selector: {{matchLabels: {{role: edge}}}}}}
  listeners: [{{name: http, port: {port}, protocol: HTTP}}]
"""


class World:
    """A store with a resource for each document, whose content is what the document says; and what is on disk."""

    def __init__(self, texts: dict[ObjectRef, str] | None = None, notes: dict[Note, bytes] | None = None) -> None:
        self.now = 0.0
        self.notes: dict[Note, bytes] = dict(notes or {})
        self.store = Store()
        self.refused: list[Resource] = []
        self.texts = dict(texts or {})
        self.doubts = Doubts(self.store, self._note, self.texts, lambda: self.now)
        self.doubts.refused = lambda among: [
            one for one in self.refused if (one.type_url, one.name, one.version) in among
        ]
        self.doubts.restore(dict(self.notes))
        if self.texts:
            former = {ResourceKey(PART, URL, ref.name): resource(ref, said) for ref, said in self.doubts.former.items()}
            self.save(*self.texts.items(), former=former or None)

    def _note(self, note: Note, content: bytes | None) -> None:
        if content is None:
            self.notes.pop(note, None)
        else:
            self.notes[note] = content

    def save(self, *edits: tuple[ObjectRef, str | None], former: Any = None) -> None:
        for ref, said in edits:
            self.doubts.taken(ref if said is None else SpecObject(ref, {}, said, "", 1))
            self.texts = {**self.texts, ref: said or ""}
        before = self.store.sequence
        changes = [(URL, ref.name, resource(ref, said) if said is not None else None) for ref, said in edits]
        self.store.publish({PART: changes})
        touched = self.store.view((PART,)).touched_since(before)
        self.doubts.committed({PART: touched or {}}, former)

    def taken_over(self) -> None:
        """By some proxy."""
        view = self.store.view((PART,))
        view.prove(URL, view.versions(URL))

    def refuse(self, ref: ObjectRef = EDGE) -> None:
        self.refused.append(resource(ref, self.texts[ref]))

    @property
    def noted(self) -> dict[str, str]:
        """By name of the document, what is on disk once it is written."""
        self.doubts.look()
        return {note.name.split("\n")[-1]: content.decode() for note, content in self.notes.items()}


def resource(ref: ObjectRef, said: str) -> Resource:
    return Resource(URL, ref.name, said.encode())


def lived() -> World:
    """One that has been there for a while: what is in force was taken over."""
    world = World()
    world.save((EDGE, text(80)), (OTHER, "other"))
    world.taken_over()
    assert world.noted == {}
    return world


def test_an_edit_is_in_doubt_until_a_proxy_has_taken_it_over() -> None:
    world = lived()
    world.save((EDGE, text(81)))
    assert world.noted == {"edge": text(80)}
    world.taken_over()
    assert world.noted == {}


def test_of_an_edit_that_is_taken_over_before_the_disk_is_written_nothing_is_noted() -> None:
    world = lived()
    world.save((EDGE, text(81)))
    world.taken_over()
    assert not world.doubts.look()
    assert world.notes == {}


def test_the_last_text_that_was_taken_over_stays_whatever_is_tried_after_it() -> None:
    world = lived()
    for port in (81, 82):
        world.save((EDGE, text(port)))
        world.refuse()
        assert world.noted == {"edge": text(80)}
    world.now += 10 * RETURN_SECONDS
    assert world.noted == {"edge": text(80)}
    world.save((EDGE, text(83)))
    world.taken_over()
    world.save((EDGE, text(84)))
    assert world.noted == {"edge": text(83)}
    world.taken_over()
    assert world.noted == {}


def test_what_one_takes_over_and_another_refuses_is_in_doubt() -> None:
    """One version of the client may take it, and another not: what that is shown is to be known."""
    world = lived()
    world.save((EDGE, text(81)))
    world.taken_over()
    assert world.noted == {}
    world.refuse()
    assert world.noted == {"edge": text(80)}
    world.now += 10 * RETURN_SECONDS
    assert world.noted == {"edge": text(80)}


def test_what_is_taken_over_is_forgotten_when_all_had_the_time_to_refuse_it() -> None:
    world = lived()
    world.save((EDGE, text(81)))
    world.taken_over()
    world.now += RETURN_SECONDS
    assert world.noted == world.doubts.former == {}


def test_what_is_new_or_gone_or_was_never_taken_over_was_nothing_good() -> None:
    world = World()
    world.save((EDGE, text(80)))
    world.save((EDGE, text(81)))
    assert world.noted == {}
    world = lived()
    world.save((EDGE, text(81)))
    world.save((EDGE, None))
    assert world.noted == {}


def test_what_an_edit_changes_for_no_proxy_is_in_no_doubt() -> None:
    world = lived()
    world.doubts.taken(SpecObject(EDGE, {}, text(80) + "# a remark\n", "", 1))
    world.doubts.committed({}, None)
    assert world.noted == {}


def test_the_next_process_knows_what_was_good_until_something_else_is() -> None:
    world = lived()
    world.save((EDGE, text(81)))
    assert world.noted == {"edge": text(80)}
    for _ in range(2):
        world = World({EDGE: text(81), OTHER: "other"}, world.notes)
        assert world.doubts.former == {EDGE: text(80)}
        assert world.store.view((PART,)).good(URL, "edge") == resource(EDGE, text(80))
        assert world.noted == {"edge": text(80)}
    world.save((EDGE, text(82)))
    assert world.noted == {"edge": text(80)}
    world.taken_over()
    assert world.noted == {}


def test_nothing_is_forgotten_before_the_first_commit() -> None:
    world = lived()
    world.save((EDGE, text(81)))
    notes = world.noted
    again = Doubts(Store(), world._note, {EDGE: text(81)})
    again.restore(dict(world.notes))
    assert not again.look()
    assert world.noted == notes


def test_a_note_that_cannot_be_used_is_said_and_forgotten_and_the_others_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = Note(KIND, "\n".join(EDGE))
    bad = {
        Note(KIND, "one word"): b"text",
        Note(KIND, "\n".join(OTHER._replace(name="third"))): b"\xff\xfe",
    }
    gone = Note(KIND, "\n".join(OTHER._replace(name="gone")))
    other = Note("another kind", "of a later version")
    notes = {
        good: text(80).encode(),
        gone: text(80).replace("name: edge,", "name: gone,").encode(),
        other: b"what it says",
        **bad,
    }
    world = World({EDGE: text(81), OTHER: "other"}, notes)
    assert world.notes == {good: text(80).encode(), other: b"what it says"}
    assert capsys.readouterr().out.count("is not known any more") == len(bad)


@pytest.mark.parametrize(("kept", "kept_bytes"), [(3, 1_000_000), (1000, 3 * len(text()))])
def test_it_has_its_bounds(monkeypatch: pytest.MonkeyPatch, kept: int, kept_bytes: int) -> None:
    monkeypatch.setattr(doubts, "KEPT", kept)
    monkeypatch.setattr(doubts, "KEPT_CHARACTERS", kept_bytes)
    refs = [EDGE._replace(name=f"edge-{number}") for number in range(10)]
    world = World()
    world.save(*((ref, text(80)) for ref in refs))
    world.taken_over()
    world.save(*((ref, text(81)) for ref in refs))
    assert len(world.noted) == 3
    world.taken_over()
    assert world.noted == {}
    world.now += RETURN_SECONDS
    assert world.noted == {}
    world.save(*((ref, text(82)) for ref in refs))
    assert len(world.noted) == 3


def test_edits_that_are_refused_one_after_the_other_take_no_more_than_one() -> None:
    """A document with a refused route may be edited for years."""
    world = lived()
    for port in range(1000, 1100):
        world.save((EDGE, text(port)))
        world.refuse()
        world.now += RETURN_SECONDS
        assert world.noted == {"edge": text(80)}
        assert len(world.doubts._former[EDGE].edits) == 1
