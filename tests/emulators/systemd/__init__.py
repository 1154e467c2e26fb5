"""A stand-in for systemd on a machine that has none: `systemd-run` with a monotonic timer, and some of `systemctl`.

Put `FOLDER/bin` on the machine's PATH. A unit runs as systemd would run it: in an environment of its own, which has
nothing of whoever asked for it, and in a session of its own. `FOLDER/units` tells of every timer, and
`FOLDER/powered-off` of every `systemctl poweroff`, which does nothing else.

Left out: everything else. An option that it does not know is refused. Units end with this computer, not with the
machine, so a test ends them by the run's mark or lets them fire.
"""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).parent


def furnish(folder: Path, state: str = "running") -> None:
    """Write the tools into `folder`, or change what `systemctl is-system-running` says: "offline" is no systemd."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "state").write_text(state)
    for name in ("systemctl", "systemd-run"):
        tool = folder / "bin" / name
        source = (_HERE / f"{name.replace('-', '_')}.py").read_text()
        tool.write_text(f"#!{sys.executable} -IS\n{source}")
        tool.chmod(0o755)


def timers(folder: Path) -> list[dict[str, str]]:
    """Every timer that was asked for: its unit, its seconds and its command."""
    file = folder / "units"
    lines = file.read_text().splitlines() if file.exists() else []
    return [
        dict(zip(("unit", "seconds", "command"), line.split("\t"), strict=True)) for line in lines
    ]
