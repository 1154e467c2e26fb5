"""The pages about providers say what the catalog and the package have."""

from __future__ import annotations

import re
from pathlib import Path

from dayfly.infra import catalog, providers
from tests import comparison

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_has_the_catalog_s_prices() -> None:
    """`python -m tests.comparison` puts them there."""
    assert comparison.shown() == comparison.table(catalog.all_types())


def test_the_least_price_of_one_gpu_is_shown_and_whether_it_is_sold_alone() -> None:
    """Eight at $16 are $2 each; a kind that has a spot price alone has no other."""
    one = catalog.machine_types("lambda")["gpu_1x_a100"]
    eight = one._replace(name="eight", gpus=8, usd_per_hour=12.0)
    rare = one._replace(provider="aws", usd_per_hour=None, spot_usd_per_hour=1.5)
    lines = comparison.table([one, eight, rare]).splitlines()
    assert lines[0] == "| GPU | aws | lambda |"
    assert lines[2] == "| A100 40 GB | live only (spot $1.50) | $1.50 x 8 |"


def test_every_provider_has_its_line_and_its_page() -> None:
    """With the command that installs it, and a file of the permissions that it needs, where there are such."""
    text = (DOCS / "providers.md").read_text()
    rows = dict(re.findall(r'^\| `"(\w+)"` \|(.*)\|$', text, re.MULTILINE))
    assert set(rows) == set(providers.names())
    for name, row in rows.items():
        extra = getattr(providers.load(name), "extra", "")
        assert (f"dayfly[{extra}]" in row) == bool(extra), name
        for file in re.findall(r"\]\(([^)]+)\)", row):
            assert (DOCS / file).resolve().is_file(), file
