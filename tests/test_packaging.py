"""What is installed is what is in the folders, under one import name."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_with_modules_is_a_listed_package() -> None:
    """`packages` is kept by hand, and an editable install hides a forgotten folder."""
    setup = SETTINGS["tool"]["setuptools"]
    places = setup["package-dir"]
    folders = {
        file.parent.relative_to(ROOT)
        for layer in ("infra", "stacks", "runtime")
        for file in (ROOT / layer).rglob("*.py")
    }
    listed = set()
    for package in setup["packages"]:
        head = max(
            (name for name in places if package == name or package.startswith(name + ".")), key=len
        )
        listed.add(
            Path(places[head], *package[len(head) :].strip(".").split("."))
            if package != head
            else Path(places[head])
        )
    assert folders == listed


def test_the_distribution_claims_one_import_name() -> None:
    """No generic `infra`, `runtime` or `stacks` lands in site-packages."""
    claimed = {
        name for name, owners in metadata.packages_distributions().items() if "dayfly" in owners
    }
    assert {name for name in claimed if not name.startswith("__editable__")} == {"dayfly"}


def test_the_project_s_name_in_pulumi_yaml_is_the_one_in_use() -> None:
    """Pulumi.yaml is not in the wheel, so the name stands in two places."""
    from dayfly.stacks.workspace import PROJECT

    lines = (ROOT / "Pulumi.yaml").read_text().splitlines()
    assert f"name: {PROJECT}" in lines


def test_the_engine_and_the_sdk_have_one_version() -> None:
    """The SDK is subclassed and the engine is built in its version."""
    pinned = next(
        line for line in SETTINGS["project"]["dependencies"] if line.startswith("pulumi==")
    )
    version = pinned.removeprefix("pulumi==")
    modules = (ROOT / "stacks" / "engine" / "cli" / "go.mod").read_text()
    assert f"github.com/pulumi/pulumi/pkg/v3 v{version}" in modules


def test_the_license_that_is_claimed_is_in_the_distribution() -> None:
    """Its full text, as its terms ask for."""
    project = SETTINGS["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert metadata.metadata("dayfly").get_all("License-File") == ["LICENSE"]
