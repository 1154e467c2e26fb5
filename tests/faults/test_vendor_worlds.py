"""What kills in vendors' clouds are aimed at, and that their accounts tell what was left in them, and what of somebody else's is gone."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.emulators.aws import Aws
from tests.emulators.azure import Emulator as Azure
from tests.emulators.azure import Options as AzureOptions
from tests.emulators.gcp import Emulator as Gcp
from tests.faults.families.clouds import FAMILY
from tests.faults.place import Place
from tests.faults.starts import Starts
from tests.faults.vendor_aim import ASKED, CELLS, CLOUDS, WHOM, WINDOWS, Aim
from tests.faults.vendor_stand import Stand
from tests.faults.vendor_worlds import WORLDS, AwsWorld, AzureWorld, GcpWorld, VendorWorld
from tests.faults.victim import Victim

_OURS = "dayfly-" + "a" * 32


@pytest.mark.parametrize("first", [0, 7, 20_000, 1_234_567])
def test_every_cloud_has_fifty_kills_wherever_a_campaign_begins(first: int) -> None:
    """Half of them at any moment, the others in each window; a keeper in half of them, and
    each of those who may die while a machine is asked for."""
    aims = [Aim.of(first + number) for number in range(FAMILY.trials)]
    assert Counter(aim.cloud for aim in aims) == dict.fromkeys(CLOUDS, 50)
    for cloud in CLOUDS:
        own = [aim for aim in aims if aim.cloud == cloud]
        assert sum(aim.window is None for aim in own) == 25
        assert {aim.window for aim in own} == {None, *WINDOWS}
        kept = sum(aim.whom == "client" for aim in own)
        assert 20 <= kept <= 30
        creating = {aim.whom for aim in own if aim.window is not None and aim.window.after == ASKED}
        assert creating == set(WHOM)


def test_what_a_seed_is_for_comes_again() -> None:
    """So that a kill which did not come is made again with another seed for the same."""
    for seed in range(600):
        again = Aim.of(seed + CELLS)
        assert replace(again, seed=seed) == Aim.of(seed)


def test_every_cloud_is_a_world() -> None:
    """None is left out."""
    assert tuple(WORLDS) == CLOUDS == tuple(_EVERY)


@contextlib.contextmanager
def _aws() -> Iterator[tuple[VendorWorld, Callable[[], object], Callable[[], object]]]:
    with Aws(machines=False) as cloud:
        backend = cloud.front.backend("us-east-1")
        world = AwsWorld(cloud)
        yield (
            world,
            lambda: backend.create_key_pair(_OURS, "ed25519", []),
            lambda: backend.delete_key_pair("not-ours"),
        )


@contextlib.contextmanager
def _azure() -> Iterator[tuple[VendorWorld, Callable[[], object], Callable[[], object]]]:
    with Azure(AzureOptions(machines=False)) as cloud:
        world = AzureWorld(cloud)
        base = f"/subscriptions/{cloud.world.subscription}/resourceGroups"
        yield (
            world,
            lambda: cloud.world.put(f"{base}/{_OURS}", {"location": "eastus"}),
            lambda: cloud.world.delete_by_hand(f"{base}/not-ours"),
        )


@contextlib.contextmanager
def _gcp() -> Iterator[tuple[VendorWorld, Callable[[], object], Callable[[], object]]]:
    with Gcp(machines=False) as cloud:
        world = GcpWorld(cloud)
        yield (
            world,
            lambda: world.post("networks", _OURS, autoCreateSubnetworks=False),
            lambda: world.delete("firewalls", "not-ours"),
        )


_EVERY = {"aws": _aws, "azure": _azure, "gcp": _gcp}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_an_account_tells_what_is_left_and_what_is_gone(cloud: str, tmp_path: Path) -> None:
    """Somebody else's things are no leak; one that is ours is, and one of theirs that is gone is noticed; and its secrets are
    found in a file."""
    with _EVERY[cloud]() as (world, leave, take):
        where = Stand(Place(tmp_path, tmp_path), world, Starts(), Victim(1, 0.0, 1), {})
        assert where.secrets() == []
        (tmp_path / "log").write_text(" ".join(world.secrets))
        assert len(where.secrets()) == len(world.secrets)
        assert (world.leaked(), world.broken()) == ([], [])
        leave()
        (left,) = world.leaked()
        assert _OURS in left or left.startswith("key ")
        assert world.broken() == []
        take()
        assert world.leaked() == [left]
        assert world.broken() != []
        assert all(text.startswith("somebody else's ") for text in world.broken())
        assert world.asked_for() == 0
        assert (world.launches("a" * 32), world.lives("a" * 32)) == (0, False)
