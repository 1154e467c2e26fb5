"""The comparison of providers by price in docs/comparison.md, made from the catalog: `python -m tests.comparison`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from dayfly.infra import catalog
from dayfly.infra.catalog import MachineType

PAGE = Path(__file__).parents[1] / "docs" / "comparison.md"
_TABLE = re.compile(r"(?<=<!-- prices -->\n).*?(?=<!-- /prices -->)", re.DOTALL)
_NONE = "-"


def table(types: Iterable[MachineType]) -> str:
    """For each kind of GPU a line: what one of it costs an hour at the least on demand, and as spot, at each provider."""
    found = [each for each in types if each.gpus]
    names = sorted({each.provider for each in found})
    lines = [f"| GPU | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for kind in _kinds(found):
        same = [each for each in found if _kind(each) == kind]
        cells = [_cell([each for each in same if each.provider == name]) for name in names]
        if any(cell != _NONE for cell in cells):
            lines.append(f"| {kind[0]} {kind[1]:.0f} GB | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _kind(each: MachineType) -> tuple[str, float]:
    return each.gpu_model, each.gpu_memory_gb


def _kinds(found: Iterable[MachineType]) -> Iterator[tuple[str, float]]:
    """Those with the most memory first, as people ask for them."""
    kinds = {_kind(each) for each in found}
    yield from sorted(kinds, key=lambda kind: (-kind[1], kind[0]))


def _cell(types: list[MachineType]) -> str:
    prices = [_least(types, spot) for spot in (False, True)]
    on_demand, spot = (_shown(price) for price in prices)
    if prices == [None, None]:
        return _NONE
    return f"{on_demand or 'live only'}{f' (spot {spot})' if spot else ''}"


def _least(types: list[MachineType], spot: bool) -> tuple[float, MachineType] | None:
    priced = [(price / each.gpus, each) for each in types if (price := each.price(spot))]
    return min(priced, key=lambda entry: (entry[0], entry[1].gpus, entry[1].name), default=None)


def _shown(least: tuple[float, MachineType] | None) -> str:
    if least is None:
        return ""
    usd, each = least
    many = f" x {each.gpus}" if each.gpus > 1 else ""
    return f"${usd:.2f}{many}"


def shown() -> str:
    """The table as the page has it."""
    match = _TABLE.search(PAGE.read_text())
    assert match, f"{PAGE} has no <!-- prices --> table"
    return match[0]


def main() -> None:
    """Puts the catalog's into the page."""
    PAGE.write_text(_TABLE.sub(lambda _: table(catalog.all_types()), PAGE.read_text()))


if __name__ == "__main__":
    main()
