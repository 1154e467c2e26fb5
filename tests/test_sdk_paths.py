"""A provider's SDK takes a second to be loaded, and is on nobody's path but its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dayfly.infra import providers
from dayfly.infra.vendor import VendorProvider
from dayfly.stacks.workspace import Workspace

pytestmark = pytest.mark.process
_VENDORS = [
    each for each in map(providers.load, providers.names()) if isinstance(each, VendorProvider)
]
# `azure` and `google.cloud` are namespaces, which looking for a package in them loads, and which are empty.
_SDKS = {
    *("pulumi_aws", "boto3", "botocore"),
    *("pulumi_azure_native", "azure.core", "azure.identity", "azure.mgmt.core"),
    *("azure.mgmt.compute", "azure.mgmt.network", "azure.mgmt.resource.resources"),
    *("pulumi_gcp", "google.cloud.compute_v1", "google.cloud.billing_v1"),
    *("google.auth", "google.api_core"),
}
_LOADED = """
import json, sys
loaded = {name for name in sys.modules} & set(json.loads(sys.argv[-1]))
print(json.dumps(sorted(loaded)), file=sys.stderr)
"""
_COMMAND = f"""
import sys
from dayfly.runtime.cli import main
*sys.argv, last = sys.argv
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
sys.argv.append(last)
{_LOADED}
"""
# What the program of a run does before the engine: in this very process, so that it can be looked at.
_PROGRAM = f"""
import sys
from pathlib import Path
from dayfly.infra import providers, rungs
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec
from dayfly.stacks import program, recorder
name, gpu = sys.argv[1:3]
provider = providers.load(name)
existing = "host" in provider.takes
spec = Spec(provider=name, gpu=gpu or None, host="nowhere" if existing else None)
offer = Offer(name, "any", "x", 1, 2**30, 0.0) if existing else rungs.of(provider, spec, live=False)[0]
program._load_sdk(offer)
before = set(sys.modules)
run = Run("a" * 32, "me", 0.0, 3600.0, Path("/nonexistent"), "", "")
assert recorder._record(spec, offer, run)
sdk = getattr(provider, "sdk", None)
late = [module for module in set(sys.modules) - before if module.partition(".")[0] == sdk]
assert not late, late
{_LOADED}
"""


def _loaded(script: str, *arguments: str, home: Path | None = None) -> set[str]:
    """The SDKs that a script has loaded, whose user has no credentials, nor any in another home."""
    variables = {} if home is None else {"HOME": str(home)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    asked = json.dumps(sorted(_SDKS))
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments, asked],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env=kept | variables,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_every_vendor_s_packages_are_looked_for() -> None:
    """A new one's as well."""
    for vendor in _VENDORS:
        for package in (vendor.sdk, *vendor.modules):
            assert package in _SDKS


def test_importing_dayfly_loads_none_of_them() -> None:
    """Nor does a decorated function."""
    assert _loaded(f"import dayfly\ndayfly.cluster(provider='aws')(len)\n{_LOADED}") == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--fast", "--provider", "local"],
        ["plan", "--fast", "--gpu", "A100:1", "--provider", "aws,azure,gcp,lambda"],
        ["ps", "--json"],
        ["gc", "--json"],
        ["doctor", "--help"],
    ],
    ids=["plan", "plan of all", "ps", "gc", "help"],
)
def test_commands_that_ask_no_cloud_load_none_of_them(
    workspace: Workspace, arguments: Sequence[str]
) -> None:
    """Whoever has no run at a cloud does not wait for its SDK."""
    assert _loaded(_COMMAND, *arguments, home=workspace.home) == set()


@pytest.mark.engine
def test_a_plan_by_the_engine_loads_none_of_them(workspace: Workspace) -> None:
    """Of a machine on this computer."""
    assert _loaded(_COMMAND, "plan", "--provider", "local") == set()


@pytest.mark.parametrize("name", providers.names())
def test_a_program_loads_its_own_before_it_forks_and_no_other(name: str, tmp_path: Path) -> None:
    """What were loaded in the recorder's fork would be loaded a second time, which takes a second or two."""
    own = providers.load(name)
    loaded = _loaded(_PROGRAM, name, "T4:1" if isinstance(own, VendorProvider) else "")
    assert loaded & {vendor.sdk for vendor in _VENDORS} == {getattr(own, "sdk", "")} - {""}
