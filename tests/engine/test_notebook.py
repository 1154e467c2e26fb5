"""A notebook: a function is defined in one cell and called in the next, by a real kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

_DEFINE = """
from dayfly import cluster

scale = 2

@cluster(provider="local", environment=[])
def double(number):
    print("there", number)
    return number * scale
"""


def test_a_function_of_one_cell_is_called_in_the_next(
    clean_environment: Path, tmp_path: Path
) -> None:
    """Its value, its output and the plain lines of plan, steps and receipt are in the cell; nothing is left."""
    import nbclient
    import nbformat.v4 as notebooks

    from dayfly.stacks import journal

    cells = [_DEFINE, "job = double.submit(21)\nprint(job.result(), job.receipt().left)"]
    notebook = notebooks.new_notebook(cells=[notebooks.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    said = "".join(output.get("text", "") for output in notebook.cells[1].outputs)
    assert "42 0" in said.splitlines(), said
    assert "there 21" in said.splitlines(), said
    for word in ("plan of run", "provision", "receipt"):
        assert word in said
    # No live display: a notebook keeps every control sequence as garbage.
    assert "\x1b" not in said
    (history,) = journal.histories(clean_environment / "runs", closed=True)
    assert history.closed
