"""The price catalog: every row whole, with a source and a date; what nobody knows is left open."""

from __future__ import annotations

import re

from dayfly.infra import catalog


def test_every_row_of_lambda_s_catalog_is_whole() -> None:
    """A price, where there is one, has a source and a date."""
    rows = catalog.machine_types("lambda")
    assert len(rows) == 19
    for name, row in rows.items():
        assert row.name == name
        assert row.cores > 0
        assert row.memory_bytes >= 16 << 30
        assert row.arch in ("x86_64", "arm64")
        assert (row.gpus > 0) == bool(row.gpu_model) == (row.gpu_memory_gb > 0)
        assert row.source
        assert re.fullmatch(r"\d{4}(-\d\d(-\d\d)?)?", row.as_of)
        assert row.usd_per_hour is None or row.usd_per_hour > 0


def test_a_price_that_only_a_look_up_tells_is_none() -> None:
    """Rather than an old one that is known to be too low."""
    rows = catalog.machine_types("lambda")
    assert rows["gpu_1x_a100"].usd_per_hour == 1.99
    assert rows["gpu_2x_h100_sxm5"].usd_per_hour is None
    assert rows["gpu_1x_gh200"].arch == "arm64"


def test_a_provider_without_a_catalog_has_no_machine_types() -> None:
    """This computer is looked at instead."""
    assert catalog.machine_types("local") == {}
