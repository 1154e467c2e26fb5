"""Where a proof of absence looks: in the places that the run's own journal names, and everywhere where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dayfly.infra.found import Found
from dayfly.infra.providers.aws import Aws
from dayfly.stacks.absence import Absence
from dayfly.stacks.journal import Event, History
from dayfly.stacks.traces import Traces

_RUN = "a" * 32


class Empty(Aws):
    """An account with nothing in it, which remembers where it was asked."""

    asked: list[tuple[str, ...]]

    def left_of(self, run: str, owner: str, where: Sequence[str] = ()) -> Sequence[Found]:
        """Nothing."""
        self.asked.append(tuple(where))
        return []


def _intent(**fields: Any) -> Event:
    return Event("intent", 1.0, {"provider": "aws", **fields})


@pytest.mark.parametrize(
    ("events", "trouble", "where"),
    [
        ((_intent(offer={"region": "us-east-1b"}),), "", ("us-east-1b",)),
        (
            (_intent(offer={"region": "us-east-1"}), _intent(offer={"region": "eu-west-1"})),
            "",
            ("us-east-1", "eu-west-1"),
        ),
        ((_intent(offer={"region": "us-east-1"}), _intent()), "", ()),
        ((), "", ()),
        ((_intent(offer={"region": "us-east-1"}),), "a line of it cannot be read", ()),
    ],
)
def test_it_looks_where_the_run_s_offers_were(
    tmp_path: Path, events: tuple[Event, ...], trouble: str, where: tuple[str, ...]
) -> None:
    """One that is missing, or a journal that cannot be read, is looked for everywhere."""
    provider = Empty()
    provider.asked = []
    history = History(_RUN, tmp_path, events, trouble)
    absence = Absence(provider, history, "me", lambda _: None, lambda _: None, sleep=lambda _: None)
    assert absence.prove(Traces((), (), None, recorded=True, lives=())) == 0
    assert provider.asked
    assert set(provider.asked) == {where}
