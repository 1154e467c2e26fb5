"""A script becomes a function that travels: as `__main__`, with its arguments, its modules and its line numbers."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from dayfly.errors import SpecError
from dayfly.runtime import payload
from dayfly.runtime.script import script_function, uses_cluster


def write(folder: Path, text: str, name: str = "job.py") -> Path:
    """A script in a project of its own."""
    (folder / "pyproject.toml").touch()
    path = folder / name
    path.write_text(text)
    return path


# Runs a packed call in an interpreter that knows neither Dayfly nor the project.
ELSEWHERE = """
import sys
_, _, pickled = sys.stdin.buffer.read().partition(b"\\n")
import pickle
function, args, kwargs = pickle.loads(pickled)
function(*args, **kwargs)
"""


def run_elsewhere(task: bytes, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """In another process, from another folder."""
    return subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=task,
        capture_output=True,
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        check=False,
        timeout=60,
    )


@pytest.mark.process
def test_a_script_runs_elsewhere_as_main_with_its_arguments_and_modules(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its exit code is its own; a module of its project that was never loaded here travels as source."""
    (tmp_path / "neighbour.py").write_text("WORD = 'found'\n")
    script = write(
        tmp_path,
        "import sys, neighbour\n"
        "if __name__ == '__main__':\n"
        "    print(neighbour.WORD, sys.argv[1:], __file__)\n"
        "    sys.exit(5)\n",
    )
    packed = payload.pack(script_function(script), (["a", "--b"],), {})
    assert packed.function == "__main__:job.py"
    assert packed.project_root == tmp_path
    done = run_elsewhere(bytes(packed.task), tmp_path_factory.mktemp("elsewhere"))
    assert done.stdout.decode() == f"found ['a', '--b'] {script}\n", done.stderr.decode()
    assert done.returncode == 5


def test_what_a_script_imports_from_elsewhere_has_to_be_installed(tmp_path: Path) -> None:
    """Known before it starts; an import that it can do without is not asked for."""
    script = write(
        tmp_path,
        "import json, psutil\ntry:\n    import nothing_of_that_name\nexcept ImportError:\n    pass\n",
    )
    assert payload.pack(script_function(script), ([],), {}).imports == ("psutil",)


def test_a_traceback_has_the_scripts_own_lines(tmp_path: Path) -> None:
    """And quotes none of them for the frame that runs it."""
    script = write(tmp_path, "def f():\n    return 1 / 0\n\nf()\n")
    main = sys.modules["__main__"]
    argv = sys.argv
    try:
        with pytest.raises(ZeroDivisionError) as caught:
            script_function(script)([])
    finally:
        sys.modules["__main__"], sys.argv = main, argv
    frames = [
        (frame.name, frame.lineno, frame.line)
        for frame in traceback.extract_tb(caught.value.__traceback__)
        if frame.filename == str(script)
    ]
    assert [frame[0] for frame in frames] == ["job.py", "<module>", "f"]
    assert frames[0][2] == ""
    assert frames[1:] == [("<module>", 4, "f()"), ("f", 2, "return 1 / 0")]


@pytest.mark.parametrize(
    ("text", "words"), [("def :\n", "line 1: "), (None, "no script"), ("\x00", "line")]
)
def test_a_script_that_is_none_is_refused_here(
    tmp_path: Path, text: str | None, words: str
) -> None:
    """Before anything exists."""
    path = tmp_path / "job.py" if text is None else write(tmp_path, text)
    with pytest.raises(SpecError, match=words):
        script_function(path)


@pytest.mark.parametrize(
    ("text", "uses"),
    [
        ("from dayfly import cluster\n@cluster\ndef f(): ...\n", True),
        ("from dayfly import cluster as c\n@c(cores=2)\ndef f(): ...\n", True),
        ("import dayfly as d\n@d.cluster(provider='local')\ndef f(): ...\n", True),
        ("import dayfly\ndef f(): ...\ng = dayfly.cluster(f)\n", True),
        ("import dayfly\nprint(dayfly.Spec())\n", False),
        ("from sklearn import cluster\ncluster.KMeans\n", False),
        ("from dayfly import cluster\n", False),
        ("not python", False),
    ],
)
def test_a_script_that_uses_cluster_itself_is_recognised(text: str, uses: bool) -> None:
    """By what it does, not by the word: another library's `cluster` is not ours."""
    assert uses_cluster(text) is uses
