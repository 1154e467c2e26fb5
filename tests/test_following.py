"""A machine whose end was asked for is billed until it ended, however long the engine is kept waiting."""

from __future__ import annotations

from pathlib import Path

from dayfly.errors import ProvisionFailed
from dayfly.infra import creations
from dayfly.infra.found import State
from dayfly.stacks.following import following
from tests.emulators.until import until
from tests.test_closer import Recording


class Cloud(Recording):
    """Counts how often it is asked for a machine; the first answers are lost."""

    limits = Recording.limits._replace(billing_increment_s=0.06)

    def __init__(self, lost: int = 0) -> None:
        super().__init__()
        self.asked = 0
        self._lost = lost

    def instance_state(self, id: str) -> State:
        self.asked += 1
        if self.asked <= self._lost:
            raise ProvisionFailed("no answer", "transient")
        return super().instance_state(id)


def _launched(directory: Path) -> None:
    creations.answered(directory, creations.begin(directory, "instance"), "i-1")


def _is_deleted(directory: Path) -> bool:
    return creations.read(directory)[0].outcome == "deleted"


def test_its_end_is_on_record_while_the_engine_still_works(tmp_path: Path) -> None:
    """When it was seen, and not when the engine came to look; an answer that is lost is asked for again."""
    _launched(tmp_path)
    cloud = Cloud(lost=2)
    cloud.states["i-1"] = "stopping"
    with following(cloud, tmp_path, {"i-1"}):
        until(lambda: cloud.asked > 3)
        assert not _is_deleted(tmp_path)
        cloud.states["i-1"] = "terminated"
        until(lambda: _is_deleted(tmp_path))
    (gone,) = creations.read(tmp_path)
    creations.deleted(tmp_path, "i-1")
    assert creations.read(tmp_path) == (gone,)
    assert gone.ended > gone.begun


def test_an_engine_that_is_not_kept_waiting_is_not_in_its_way(tmp_path: Path) -> None:
    """Each look would take a turn at the API from it."""
    _launched(tmp_path)
    patient = Cloud()
    patient.limits = Recording.limits
    with following(patient, tmp_path, {"i-1"}):
        pass
    assert patient.asked == 0


def test_of_two_that_have_seen_it_gone_the_first_one_ends_its_bill(tmp_path: Path) -> None:
    """The engine's provider and this may write at the same moment."""
    _launched(tmp_path)
    creations.deleted(tmp_path, "i-1")
    (before,) = creations.read(tmp_path)
    with (tmp_path / creations.FILE).open("a") as file:
        file.write(f'\n{{"token": "{before.token}", "outcome": "deleted", "ended": 9e9}}')
    assert creations.read(tmp_path) == (before,)
