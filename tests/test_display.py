"""What people see of a job: live on a terminal, plain lines in a pipe, and the function's own output untouched."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.infra.listing import Resource
from dayfly.infra.offers import Offer
from dayfly.infra.plan import Plan
from dayfly.runtime.display import Display
from dayfly.runtime.surface import Pipe, Terminal, standard
from dayfly.stacks.receipt import Receipt

OFFER = Offer(
    "local", "loopback", "this-computer", 2, 8 * 10**9, 0.0, as_of="2026-01-01", source="own"
)
PLAN = Plan(
    "m:f",
    (Resource("t", "instance"),),
    "engine",
    (OFFER.as_dict(),),
    0.0,
    0.0,
    3600.0,
    0.0,
    "live",
    "dies",
)
RECEIPT = Receipt("ab" * 16, "local", 2, 2, 0, 0.0, 41.0, 0.0, 0.0, "pulumi", ("a note [of it]",))


@pytest.fixture
def display() -> Iterator[Display]:
    """One on a pipe of its own."""
    made = Display(Pipe())
    yield made
    made.done()


def test_steps_plan_and_receipt_go_to_stderr_in_order(
    display: Display, capfd: pytest.CaptureFixture[str]
) -> None:
    """The plan comes before the end of the first step; a step is one line with its time and what came of it."""
    display.step("provision", "local")
    display.plan(PLAN, "ab" * 16)
    display.done("local-1a2b")
    display.step("connect")
    display.done()
    display.receipt(RECEIPT)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "plan of run abababababab"
    steps = [line.split() for line in lines if line.startswith(("provision", "connect"))]
    assert [(step[0], step[2:]) for step in steps] == [
        ("provision", ["s", "local-1a2b"]),
        ("connect", ["s"]),
    ]
    assert "destroyed 2 of 2, local confirms 0 left" in lines[-2]
    assert lines[-1].strip() == "a note [of it]"


def test_the_functions_output_is_passed_on_byte_for_byte(
    display: Display, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Carriage returns, bytes that are no text, and characters cut in two; nothing waits for the end of a line."""
    display.step("run")
    display.output("stdout", b"\r10%\r20%")
    assert capfdbinary.readouterr().out == b"\r10%\r20%"
    display.output("stdout", "é".encode()[:1])
    display.output("stdout", "é".encode()[1:] + b"\xff\n")
    display.output("stderr", b"oops\n")
    captured = capfdbinary.readouterr()
    assert captured.out == "é".encode() + b"\xff\n"
    assert captured.err == b"oops\n"


def test_a_stream_without_bytes_gets_whole_characters(
    display: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's stdout takes text only; a character that arrives in two parts is one all the same."""
    cell = io.StringIO()
    monkeypatch.setattr(sys, "stdout", cell)
    display.output("stdout", "é".encode()[:1])
    display.output("stdout", "é".encode()[1:] + b"\r")
    assert cell.getvalue() == "é\r"


def test_no_stream_at_all_is_no_error(display: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without stdout or stderr still gets its result."""
    monkeypatch.setattr(sys, "stdout", None)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    display.output("stdout", b"x")
    display.note("x")


def test_a_line_of_ours_does_not_begin_in_the_middle_of_the_functions(
    display: Display, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where both go to the same place."""
    display.output("stderr", b"no newline")
    display.note("next")
    assert capfd.readouterr().err == "no newline\nnext\n"


def test_a_stream_that_ends_without_a_byte_leaves_no_empty_line(
    display: Display, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A function that prints to stdout alone has a stderr that ends, too."""
    display.output("stdout", b"whole\n")
    display.output("stderr", b"")
    display.note("ours")
    assert capfdbinary.readouterr() == (b"whole\n", b"ours\n")


def test_all_output_goes_to_one_stream_where_stdout_is_for_the_value(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """`dayfly run --json` prints nothing but JSON on stdout."""
    display = Display(Pipe(), output_to="stderr")
    display.output("stdout", b"hello\n")
    assert capfd.readouterr() == ("", "hello\n")


def test_quiet_leaves_output_and_warnings(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """DAYFLY_QUIET=1 silences steps, never an error."""
    monkeypatch.setenv("DAYFLY_QUIET", "1")
    display = Display.standard()
    display.step("run")
    display.plan(PLAN, "ab" * 16)
    display.note("x")
    display.output("stdout", b"value\n")
    display.warning("it may be alive")
    display.receipt(RECEIPT)
    assert capfd.readouterr() == ("value\n", "dayfly: it may be alive\n")


def test_a_silent_display_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """And does not count as company for the others."""
    display = Display.silent()
    display.step("run")
    display.plan(PLAN, "")
    display.output("stdout", b"x")
    display.receipt(RECEIPT)
    assert capfd.readouterr() == ("", "")


def test_a_secret_does_not_get_into_a_note(
    display: Display, capfd: pytest.CaptureFixture[str]
) -> None:
    """An installer prints its index's URL, password and all."""
    display.note("index https://me:hunter22@index.example/simple")
    assert "hunter22" not in capfd.readouterr().err


def test_two_jobs_at_once_have_their_names_on_every_line(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """Whole lines, each with its job; a progress bar keeps its label; afterwards a job alone is unlabelled again."""
    pipe = Pipe()
    first, second = Display(pipe), Display(pipe)
    first.run_id, second.run_id = "a" * 32, "b" * 32
    first.step("run")
    second.step("run")
    first.output("stdout", b"par")
    second.output("stdout", b"1%\r2%\r\n")
    first.output("stdout", b"tial\nrest")
    assert capfdbinary.readouterr().out == (b"bbbbbbbb | 1%\rbbbbbbbb | 2%\naaaaaaaa | partial\n")
    second.receipt(RECEIPT)
    first.done()
    out, err = capfdbinary.readouterr()
    assert out == b"aaaaaaaa | rest\n"
    labels = {line[:11] for line in err.splitlines()}
    assert labels == {b"aaaaaaaa | ", b"bbbbbbbb | "}
    first.step("run")
    first.output("stdout", b"alone")
    assert capfdbinary.readouterr().out == b"alone"
    first.done()


def test_many_jobs_do_not_mix_their_lines(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Eight threads, each with its own display."""
    pipe, together = Pipe(), threading.Barrier(8)

    def work(number: int) -> None:
        display = Display(pipe)
        display.run_id = str(number) * 32
        display.step("run")
        together.wait()
        for _ in range(50):
            display.output("stdout", b"x" * 10)
            display.output("stdout", b"\n")
        together.wait()
        display.done()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert sorted(lines) == sorted(
        f"{n}" * 8 + " | xxxxxxxxxx" for n in range(8) for _ in range(50)
    )


SCRIPT = """
import sys, time
from dayfly.runtime.display import Display
from tests.test_display import PLAN, RECEIPT
display = Display.standard()
display.step("provision", "local")
display.plan(PLAN, "ab" * 16)
time.sleep(0.5)
display.done("local-1a2b")
display.step("run")
display.output("stdout", b"\\r50%")
time.sleep(0.5)
display.output("stdout", b"\\r100%")
display.done()
display.receipt(RECEIPT)
print(type(display._surface).__name__)
"""


def in_terminal(script: str) -> str:
    """What a terminal receives from a program."""
    master, slave = pty.openpty()
    root = str(Path(__file__).parent.parent)
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=root,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONPATH": root},
    ):
        os.close(slave)
        received = b""
        try:
            while data := os.read(master, 65536):
                received += data
        except OSError:
            pass  # Linux says so that the other end is closed.
    os.close(master)
    return received.decode()


@pytest.mark.process
def test_a_terminal_shows_a_live_line_and_never_over_a_progress_bar() -> None:
    """The live line is erased before anything else is printed, and waits while a line is unfinished."""
    seen = in_terminal(SCRIPT)
    assert Terminal.__name__ in seen
    assert "provision 0." in seen
    assert "local-1a2b" in seen
    assert "a note [of it]" in seen
    bar = seen[seen.index("50%") : seen.index("100%")]
    assert bar == "50%\r"
    assert "100%\r\n" in seen


def test_a_reader_that_goes_away_costs_no_result() -> None:
    """`dayfly run ... | head -1` ends as it would have ended."""
    script = (
        "import sys, time\n"
        "from dayfly.runtime.display import Display\n"
        "display = Display.standard()\n"
        "display.step('run')\n"
        "for _ in range(200): display.output('stdout', b'x' * 1000 + b'\\n')\n"
        "display.done()\n"
        "print('lost', flush=True)\n"
        "sys.exit(7)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.readline()
        program.stdout.close()
        err = program.stderr.read().decode()
    assert program.returncode == 7
    assert "Error" not in err


GOES_ON = """
import os, pathlib, sys, time
from dayfly.runtime.display import Display
from tests.test_display import PLAN, RECEIPT
display = Display.standard()
kind = type(display._surface).__name__
display.step("provision", "local")
time.sleep(0.5)
pathlib.Path(sys.argv[1]).write_text("ready")
while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.01)
display.plan(PLAN, "ab" * 16)
display.output("stdout", b"x" * 100_000)
display.output("stderr", b"y" * 100_000)
display.warning("still here")
display.done()
display.receipt(RECEIPT)
pathlib.Path(sys.argv[1]).write_text(kind)
"""


def goes_on(tmp_path: Path, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    """A program that shows something, says so in a file, waits for another, and goes on showing."""
    root = str(Path(__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-c", GOES_ON, str(tmp_path / "said"), str(tmp_path / "go")],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        cwd=root,
        env={**os.environ, "TERM": "xterm", "PYTHONPATH": root},
        start_new_session=True,
    )


@pytest.mark.process
def test_a_terminal_that_goes_away_costs_no_result(tmp_path: Path) -> None:
    """Its window is closed: every write fails from then on, and the program ends as it would have ended."""
    master, slave = pty.openpty()
    with goes_on(tmp_path, slave, slave) as program:
        os.close(slave)
        while not (tmp_path / "said").exists():
            os.read(master, 65536)
        os.close(master)
        (tmp_path / "go").touch()
    assert program.returncode == 0
    assert (tmp_path / "said").read_text() == Terminal.__name__


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.process
def test_a_full_disk_under_the_output_costs_no_result(tmp_path: Path) -> None:
    """`dayfly run ... > log 2>&1` on a disk that is full."""
    full = os.open("/dev/full", os.O_WRONLY)
    (tmp_path / "go").touch()
    with goes_on(tmp_path, full, full) as program:
        os.close(full)
    assert program.returncode == 0
    assert (tmp_path / "said").read_text() == Pipe.__name__


def test_a_stream_that_was_closed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's capture, or an interpreter at its end."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    monkeypatch.setattr(sys, "stdout", closed)
    assert type(standard()) is Pipe
    for surface in (Pipe(), Terminal()):
        surface.raw("stdout", b"half a line")
        surface.line("a line")
        surface.table("a table", (("label", "text"),))


def test_a_reader_that_is_slow_misses_a_part_and_costs_no_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some programs leave the terminal that they share with us in a mode in which writing does not wait."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        surface = Pipe()
        for _ in range(20):
            surface.raw("stdout", b"x" * 65536)
        assert os.read(reader.fileno(), 1 << 20)
        os.set_blocking(reader.fileno(), False)
        surface.raw("stdout", b"the end\n")
        assert b"the end\n" in os.read(reader.fileno(), 1 << 20)
