"""The ground truth and the meter: every launch, change and end with its time, and dollars that add up."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.emulators.lambda_cloud import Emulator, Fault, Options, meter
from tests.emulators.machines import truth
from tests.emulators.plain_client import Client
from tests.emulators.until import until

pytestmark = pytest.mark.process

_SCALE = 50.0
FAST = Options(
    time_scale=_SCALE,
    request_interval_s=0,
    launch_interval_s=0,
    machines=False,
    listing_lag_s=0,
    # A minute of ours, in which all of a test fits.
    billing_increment_s=60 * _SCALE,
)


def test_the_log_tells_the_whole_life_of_an_instance() -> None:
    """From the accepted launch with its tags and price to the row that is gone."""
    with Emulator(FAST) as cloud:
        api = Client(cloud)
        api.add_key()
        tags = [{"key": "dayfly-run", "value": "r1"}]
        id = api.launched(name="one", tags=tags)
        until(lambda: api.status(id) == "active")
        cloud.mark(id, "unhealthy")
        api.terminate(id)
        until(lambda: api.get(f"/instances/{id}").status == 404)
        life = [each for each in cloud.events() if each.get("instance") == id]
    assert life[0] | {"at": 0} == {
        "at": 0,
        "event": "launch_accepted",
        "instance": id,
        "type": "gpu_1x_a10",
        "region": "us-east-1",
        "cents_per_hour": 129,
        "name": "one",
        "tags": {"dayfly-run": "r1"},
        "ssh_key": "key",
    }
    changes = [(each["was"], each["now"]) for each in life if each["event"] == "status"]
    assert changes == [
        ("booting", "active"),
        ("active", "unhealthy"),
        ("unhealthy", "terminating"),
        ("terminating", "terminated"),
    ]
    assert [each["at"] for each in life] == sorted(each["at"] for each in life)
    assert life[-1]["event"] == "unlisted"


def test_the_key_is_neither_in_the_log_nor_on_the_command_line() -> None:
    """Both are seen by others."""
    with Emulator(Options(api_key="secret_canary", machines=False)) as cloud:
        assert cloud.api_key == "secret_canary"
        assert "secret_canary" not in cloud.log.read_text()
        assert cloud.events("started")
        assert b"secret_canary" not in Path(f"/proc/{cloud.pid}/cmdline").read_bytes()


def test_the_meter_adds_up() -> None:
    """Each instance by the minute from its launch to its end, whatever became of the answer; the log says the same."""
    with Emulator(FAST) as cloud:
        api = Client(cloud)
        api.add_key()
        ended, taken = api.launched(), api.launched(instance_type_name="gpu_1x_h100_sxm5")
        cloud.add_faults([Fault("launch", "truncate", at=(1,))])
        with pytest.raises(Exception, match="IncompleteRead"):
            api.launch(name="lost")
        api.terminate(ended)
        cloud.mark(taken, "preempted")
        until(lambda: api.status(ended) == "terminated")
        bills = {bill["name"] or bill["instance"]: bill for bill in cloud.meter()["bills"]}
        assert set(bills) == {ended, taken, "lost"}
        assert bills[ended]["ended"] is not None
        assert bills["lost"]["ended"] is None
        assert bills[taken]["dollars"] == pytest.approx(4.29 / 60)
        assert [bill["billed_s"] for bill in bills.values()] == [60.0] * 3
        assert cloud.meter()["dollars"] == pytest.approx((1.29 + 4.29 + 1.29) / 60)
        billed = {each["instance"]: each["dollars"] for each in cloud.events("billed")}
        assert billed == {ended: bills[ended]["dollars"], taken: bills[taken]["dollars"]}
        again = meter.bills(truth.read(cloud.log), time.time(), 60)
        assert meter.total(again) == pytest.approx(cloud.meter()["dollars"])


@pytest.mark.parametrize(
    ("seconds", "billed_s"), [(0.0, 60), (59.9, 60), (60.0, 60), (60.1, 120), (3600.0, 3600)]
)
def test_a_bill_is_rounded_up_to_the_minute(seconds: float, billed_s: float) -> None:
    """One hour of it costs the price of an hour."""
    launch = {
        "at": 1000.0,
        "event": "launch_accepted",
        "instance": "i",
        "type": "t",
        "region": "r",
        "name": "",
        "tags": {},
        "cents_per_hour": 360,
    }
    ends = [
        {"at": 1000.0 + seconds, "event": "status", "instance": "i", "now": "terminated"},
        {"at": 99999.0, "event": "status", "instance": "i", "now": "terminated"},
    ]
    (bill,) = meter.bills([launch, *ends], until=5e5, increment_s=60)
    assert bill.billed_s == billed_s
    assert bill.dollars == pytest.approx(billed_s * 0.001)
    (still,) = meter.bills([launch], until=1000.0 + seconds, increment_s=60)
    assert (still.ended, still.billed_s) == (None, billed_s)


def test_time_can_be_moved_on() -> None:
    """What is due happens, bills grow in the increments of the cloud's time, and log and meter agree."""
    with Emulator(replace(FAST, billing_increment_s=60, boot_s=1000)) as cloud:
        api = Client(cloud)
        api.add_key()
        id = api.launched()
        assert api.status(id) == "booting"
        assert cloud.advance(7200) == 7200 / _SCALE
        assert cloud.advance(3600) == 10800 / _SCALE
        until(lambda: api.status(id) == "active")
        api.terminate(id)
        until(lambda: api.status(id) == "terminated")
        (bill,) = cloud.meter()["bills"]
        increments = bill["billed_s"] * _SCALE / 60
        assert increments == pytest.approx(round(increments))
        assert 10800 / _SCALE < bill["seconds"] <= bill["billed_s"] < bill["seconds"] + 60 / _SCALE
        (billed,) = cloud.events("billed")
        assert billed["dollars"] == pytest.approx(bill["dollars"])
        with pytest.raises(ValueError, match="time goes forward"):
            cloud.advance(-1)


@pytest.mark.process
def test_the_log_survives_the_emulator(tmp_path: Path) -> None:
    """Every launch that was answered is in it after a SIGKILL, and the bills can still be made."""
    with Emulator(FAST, folder=tmp_path) as cloud:
        api = Client(cloud)
        api.add_key()
        ids = [api.launched() for _ in range(20)]
        cloud.kill()
        killed = time.time()
        left = truth.read(tmp_path / "truth.jsonl")
    assert [each["instance"] for each in left if each["event"] == "launch_accepted"] == ids
    assert left[-1]["event"] != "ended"
    assert meter.total(meter.bills(left, killed, 60)) == pytest.approx(20 * 1.29 / 60)


def test_a_line_that_was_being_written_is_left_out(tmp_path: Path) -> None:
    """A crash in the middle of a write spoils nothing else."""
    log = truth.Truth(tmp_path / "log")
    log.write("one")
    log.close()
    with (tmp_path / "log").open("a") as file:
        file.write('{"at": 1, "ev')
    assert [each["event"] for each in truth.read(tmp_path / "log")] == ["one"]
