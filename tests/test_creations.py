"""The record of creating requests: on the disk before each is sent, and readable whatever a crash has done to it."""

from __future__ import annotations

from pathlib import Path

from dayfly.infra import creations


def test_a_request_is_open_until_its_answer_is_on_record(tmp_path: Path) -> None:
    """Then it has an id, or a reason, or is gone."""
    key, machine, other = (creations.begin(tmp_path, k) for k in ("key", "instance", "instance"))
    assert [c.outcome for c in creations.read(tmp_path)] == ["open"] * 3
    creations.answered(tmp_path, key, "k-1")
    creations.refused(tmp_path, machine, "no capacity")
    creations.answered(tmp_path, other, "i-1")
    creations.deleted(tmp_path, "i-1")
    found = creations.read(tmp_path)
    assert [(c.kind, c.id, c.outcome, c.why) for c in found] == [
        ("key", "k-1", "answered", ""),
        ("instance", "", "refused", "no capacity"),
        ("instance", "i-1", "deleted", ""),
    ]
    assert [c.begun for c in found] == [key.begun, machine.begun, other.begun]
    assert found[2].ended >= found[2].begun > 0 == found[0].ended
    assert (tmp_path / creations.FILE).stat().st_mode & 0o777 == 0o600


def test_a_line_that_was_cut_swallows_no_other(tmp_path: Path) -> None:
    """Whatever was being written when the power went."""
    first = creations.begin(tmp_path, "instance")
    file = tmp_path / creations.FILE
    file.write_bytes(file.read_bytes() + b'\n{"token": "ab", "ki')
    creations.answered(tmp_path, first, "i-1")
    file.write_bytes(file.read_bytes() + b"\n\xff\xfe[]")
    assert [(c.id, c.outcome) for c in creations.read(tmp_path)] == [("i-1", "answered")]


def test_a_run_that_has_asked_for_nothing_has_an_empty_record(tmp_path: Path) -> None:
    """As has one whose directory is gone."""
    assert creations.read(tmp_path) == ()
    assert creations.read(tmp_path / "gone") == ()


def test_a_twin_is_on_record_from_the_launch_until_it_was_seen_gone(tmp_path: Path) -> None:
    """What came of a launch without an answer is no twin; an id that is known is recorded once."""
    machine = creations.begin(tmp_path, "instance")
    creations.found(tmp_path, "i-1")
    creations.found(tmp_path, "i-1")
    assert not creations.twins(tmp_path, {"i-1": True})
    assert creations.twins(tmp_path, {"i-1": True, "i-2": True})
    own, twin = creations.read(tmp_path)
    assert (own.id, own.outcome, own.twin) == ("i-1", "answered", False)
    assert (twin.id, twin.outcome, twin.twin, twin.begun) == (
        "i-2",
        "answered",
        True,
        machine.begun,
    )
    assert not creations.twins(tmp_path, {"i-1": True, "i-2": False})
    assert creations.read(tmp_path)[1].ended > 0
    assert creations.twins(tmp_path, {"i-3": True})
    assert not creations.twins(tmp_path, {})
    assert [c.outcome for c in creations.read(tmp_path)] == ["answered", "deleted", "deleted"]


def test_a_machine_is_the_answer_to_its_own_request(tmp_path: Path) -> None:
    """Of several machines of a run one is no twin of another, and what is said of one is not said of the others."""
    for node in range(2):
        creations.begin(tmp_path, "instance", node)
    assert not creations.twins(tmp_path, {"i-1": True}, 1)
    assert [(c.node, c.id) for c in creations.read(tmp_path)] == [(0, ""), (1, "i-1")]
    assert creations.twins(tmp_path, {"i-1": True, "i-2": True}, 1)
    assert not creations.twins(tmp_path, {"i-0": True}, 0)
    assert [(c.node, c.id, c.outcome, c.twin) for c in creations.read(tmp_path)] == [
        (0, "i-0", "answered", False),
        (1, "i-1", "answered", False),
        (1, "i-2", "answered", True),
    ]
    assert not creations.twins(tmp_path, {"i-1": True}, 1)
    assert creations.read(tmp_path)[-1].outcome == "deleted"
