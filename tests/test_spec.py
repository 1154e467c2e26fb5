"""A Spec is checked when it is made, and says what is wrong with which value."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import SpecError
from dayfly.infra.spec import Spec


def test_durations_and_sizes_are_read_as_people_write_them() -> None:
    """ "10m", "01:30:00", a timedelta and a number are all seconds; GB is decimal, GiB is binary."""
    assert Spec(max_runtime="10m").max_runtime_s == 600
    assert Spec(max_runtime="1h30m").max_runtime_s == 5400
    assert Spec(max_runtime="01:30:00").max_runtime_s == 5400
    assert Spec(max_runtime="1-00:00:00").max_runtime_s == 86400
    assert Spec(max_runtime=timedelta(minutes=2)).max_runtime_s == 120
    assert Spec(max_runtime="90").max_runtime_s == 90
    assert Spec(grace="2m").grace_s == 120
    assert Spec(max_runtime="5s").grace_s == 10
    assert Spec(memory="32GB").memory_bytes == 32 * 10**9
    assert Spec(memory="32GiB").memory_bytes == 32 * 2**30
    assert Spec(memory="512 mb").memory_bytes == 512 * 10**6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"provider": "lokal"}, ["'lokal'", "did you mean 'local'?"]),
        ({"provider": "zzz"}, ["'zzz'", "known: ", "local"]),
        ({"provider": []}, ["provider=[]"]),
        ({"corse": 3}, ["unknown option 'corse'", "'cores'"]),
        ({"cores": 0}, ["cores=0", "at least 1"]),
        ({"cores": "many"}, ["cores='many'"]),
        ({"cores": True}, ["cores=True"]),
        ({"nodes": 0}, ["nodes=0"]),
        ({"min_gpu_utilization": 0}, ["min_gpu_utilization=0", "above 0, 100 at most"]),
        ({"min_gpu_utilization": 101}, ["min_gpu_utilization=101"]),
        ({"min_gpu_utilization": True}, ["min_gpu_utilization=True"]),
        ({"min_gpu_utilization": "half"}, ["min_gpu_utilization='half'"]),
        ({"gpu_utilization_window": "59s"}, ["gpu_utilization_window='59s'", '"1m" at least']),
        ({"gpu_utilization_window": "soon"}, ["gpu_utilization_window='soon'", '"10m"']),
        ({"keep": "soon"}, ["keep='soon'", '"10m"', '"on-failure"', '"always"']),
        ({"keep": True}, ["keep=True", '"always"']),
        ({"keep": 0}, ["keep=0", "leave it out"]),
        ({"keep": "10m", "nodes": 2}, ["keep=600.0", "nodes=2"]),
        ({"grace": 0}, ["grace=0", '"10m"']),
        ({"grace": "at once"}, ["grace='at once'", '"10m"']),
        ({"grace": "6m", "max_runtime": "10m"}, ["grace='6m'", "half of max_runtime", "10 min"]),
        ({"retries": -1}, ["retries=-1"]),
        ({"memory": "lots"}, ["memory='lots'", '"32GB"']),
        ({"memory": 0}, ["memory=0"]),
        ({"disk": "12 parsecs"}, ["disk='12 parsecs'"]),
        ({"memory": float("inf")}, ["memory=inf", '"32GB"']),
        ({"memory": float("nan")}, ["memory=nan", '"32GB"']),
        ({"memory": 0.5}, ["memory=0.5", '"32GB"']),
        ({"memory": "0.5B"}, ["memory='0.5B'", '"32GB"']),
        ({"memory": "9" * 400 + "GB"}, ["memory='9999", "(404 characters)", '"32GB"']),
        ({"disk": 10**400}, ["disk=1000", '"32GB"']),
        ({"disk": 10**5000}, ["disk=a number of thousands of digits", '"32GB"']),
        ({"max_runtime": 10**400}, ["max_runtime=1000", '"10m"']),
        ({"max_runtime": "9" * 400}, ["max_runtime='9999", '"10m"']),
        ({"max_runtime": "9" * 400 + ":00"}, ["max_runtime='9999", '"10m"']),
        ({"max_runtime": float("nan")}, ["max_runtime=nan", '"10m"']),
        ({"hold": float("inf")}, ["hold=inf", '"10m"']),
        ({"max_runtime": 1e300}, ["max_runtime=1e+300", "ten years"]),
        ({"cores": 10**5000}, ["cores=a number of thousands of digits", "at most"]),
        ({"max_cost": float("inf")}, ["max_cost=inf", "above 0"]),
        ({"max_cost": float("nan")}, ["max_cost=nan", "above 0"]),
        ({"max_cost": 10**400}, ["max_cost=1000", "above 0"]),
        ({"max_cost": 0}, ["max_cost=0", "above 0"]),
        ({"max_cost": "5"}, ["max_cost='5'"]),
        ({"max_price": "5"}, ["max_price='5'", "an hour"]),
        ({"max_price": -1}, ["max_price=-1", "above 0"]),
        ({"max_runtime": "soon"}, ["max_runtime='soon'", '"10m"']),
        ({"time": 0}, ["max_runtime=0"]),
        ({"hold": "-5m"}, ["hold='-5m'"]),
        ({"time": "1h", "max_runtime": "1h"}, ["time=", "max_runtime=", "one of them"]),
        ({"secrets": "WANDB_API_KEY"}, ["secrets='WANDB_API_KEY'", "list"]),
        ({"environment": 3}, ["environment=3"]),
        ({"environment": " "}, ["environment=' '", "[]"]),
        ({"gpu": "8xA100!"}, ["gpu='8xA100!'", "A100-80GB:8"]),
        ({"gpu": ""}, ["gpu=''", "A100-80GB:8"]),
        ({"gpu": []}, ["gpu=''", "A100-80GB:8"]),
        ({"gpu": 8}, ["gpu=8", "a text"]),
        ({"gpu": ["A100", 8]}, ["gpu=['A100', 8]", "list of texts"]),
        ({"gpu": ["H100", "A100:8"]}, ["how many H100"]),
        ({"file_systems": "data"}, ["file_systems='data'", '["datasets"]']),
        ({"file_systems": ["data", 3]}, ["3 is not a name"]),
        ({"file_systems": ["data", "data"]}, ["twice"]),
        ({"allow_cidr": "anywhere"}, ["allow_cidr='anywhere'", "203.0.113.7/32"]),
        ({"allow_cidr": "203.0.113.7/24"}, ["host bits set"]),
        ({"allow_cidr": "2001:db8::/32"}, ["IPv4"]),
        ({"allow_cidr": 7}, ["allow_cidr=7"]),
        ({"region": ""}, ["region=''"]),
        ({"outputs": ""}, ["outputs=''", "./results"]),
        ({"outputs": 7}, ["outputs=7", "./results"]),
        ({"outputs": b"results"}, ["outputs=b'results'", "./results"]),
        ({"outputs": __file__}, ["is a file"]),
        ({"wait_for_teardown": "yes"}, ["wait_for_teardown='yes'"]),
        (
            {"python": "2.7"},
            ["python='2.7'", f"{sys.version_info.major}.{sys.version_info.minor}", "bytecode"],
        ),
    ],
)
def test_an_impossible_spec_is_refused_with_the_value_and_the_next_step(
    options: dict[str, Any], words: list[str]
) -> None:
    """Every refusal names what was written."""
    with pytest.raises(SpecError) as refusal:
        Spec.from_options(options)
    for word in words:
        assert word in str(refusal.value)


def test_a_pasted_secret_is_not_repeated() -> None:
    """People write the secret itself where its name belongs; the message must not carry it on."""
    with pytest.raises(SpecError) as refusal:
        Spec(secrets=["sk-live-12345 "])
    assert "sk-live" not in str(refusal.value)


def test_the_folder_for_outputs_is_where_the_spec_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever brings them home later may work elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert Spec(outputs="./results").outputs == str(tmp_path / "results")
    assert Spec(outputs=Path("~/results")).outputs == "/home/me/results"


def test_a_spec_survives_json() -> None:
    """What the journal keeps makes an equal Spec again."""
    spec = Spec(
        provider=["local"],
        memory="1GB",
        max_runtime="1h",
        secrets=["A"],
        environment=["numpy"],
        file_systems=["data"],
        allow_cidr="203.0.113.7",
    )
    assert spec.allow_cidr == "203.0.113.7/32"
    assert Spec(**spec.as_dict()) == spec


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("x @ https://user:pw@host/x.whl", "x @ https://[secret]@host/x.whl"),
        ("x @ https://user:p@w@host/x.whl", "x @ https://[secret]@host/x.whl"),
        ("x @ git+https://TOKEN@host/x@v1", "x @ git+https://[secret]@host/x@v1"),
        ("x @ https://host/x.whl?a=1&sig=ab%2F&b=2", "x @ https://host/x.whl?a=1&sig=[secret]&b=2"),
        ("x @ git+ssh://git@host/x@v1", "x @ git+ssh://git@host/x@v1"),
        ("x @ git+https://host/x@v1", "x @ git+https://host/x@v1"),
        ("numpy>=2", "numpy>=2"),
    ],
)
def test_credentials_of_requirements_are_kept_nowhere(given: str, kept: str) -> None:
    """The call has them; the journal, and whoever is shown it, has not."""
    spec = Spec(environment=[given])
    assert spec.as_dict()["environment"] == (kept,)
    assert Spec(environment=given).as_dict()["environment"] == kept
    assert spec.environment == (given,)
    assert Spec(**spec.as_dict()).environment == (kept,)


def test_time_is_another_spelling_of_max_runtime() -> None:
    """As schedulers call it."""
    assert Spec.from_options({"time": "02:00:00"}).max_runtime_s == 7200
    assert Spec.from_options({"time": None}).max_runtime_s == 86400


def test_the_client_s_own_python_is_accepted() -> None:
    """Only another minor is refused."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert Spec(python=own).python == own
