"""Row `import`: what `import dayfly` adds to the start of an interpreter."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import Row, Say

_TRIALS = 11
_MOST_MS = 150.0
_LIMIT_S = 60.0


def measure(say: Say) -> Row:
    """an interpreter that imports dayfly and ends, less one that does nothing; medians of 11 in turn"""
    ours: list[float] = []
    peer: list[float] = []
    # Not the checkout, where the benchmarks' own folders would be on the path.
    with tempfile.TemporaryDirectory(prefix="dayfly-bench-") as folder:
        for program in ("import dayfly", "pass"):
            _ms(program, Path(folder))  # The first one may have to write bytecode.
        for _ in range(_TRIALS):
            peer.append(_ms("pass", Path(folder)))
            ours.append(_ms("import dayfly", Path(folder)))
    value, floor = statistics.median(ours), statistics.median(peer)
    say(
        f"ours {value:.1f} ms, python -c pass {floor:.1f} ms: the import takes {value - floor:.1f} ms"
    )
    return Row(
        "import",
        round(value, 3),
        "python -c pass",
        round(floor, 3),
        "ms",
        f"<= peer + {_MOST_MS:.0f} ms",
        value - floor <= _MOST_MS,
    )


def _ms(program: str, folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=os.environ, timeout=_LIMIT_S, check=True
    )
    return (time.perf_counter() - began) * 1000
