"""Each outcome of a call is one defined thing for the caller."""

from __future__ import annotations

import enum
import io
import json
import subprocess
import sys
import types
from typing import Any

import cloudpickle
import pytest

from dayfly.errors import EnvironmentFailed, JobExited, ResultFailed, UnpicklableResult
from dayfly.runtime import outcome


class Color(enum.Enum):
    RED = 1


class Wide(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one, two)


def result(kind: str, pickled: bytes = b"", **fields: Any) -> bytes:
    header = {"outcome": kind, "type": "", "text": "", "traceback": "", "modules": [], "code": 0}
    return json.dumps({**header, **fields}).encode() + b"\n" + pickled


def by_value(value: Any, *modules: types.ModuleType) -> bytes:
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(value))
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def test_a_value_comes_back() -> None:
    """A newline in the pickle is no second header, and no pickle is None (`sys.exit(0)`)."""
    value = {"text": "a\nb", "data": b"\n\n"}
    assert outcome.unpack(result("value", cloudpickle.dumps(value)), run_id="r") == value
    assert outcome.unpack(result("value"), run_id="r") is None


def test_an_exception_is_raised_as_itself_with_the_remote_traceback() -> None:
    """The note names host and run, and holds the lines."""
    sent = result(
        "raised",
        by_value(Wide(1, 2), sys.modules[__name__]),
        traceback="Traceback: line 7\n",
        provenance={"host": "box"},
    )
    with pytest.raises(Wide) as caught:
        outcome.unpack(sent, run_id="abc")
    assert type(caught.value) is Wide
    assert caught.value.__notes__ == ["\nOn box, run abc:\nTraceback: line 7"]


@pytest.mark.process
def test_a_class_that_is_known_here_is_not_made_again() -> None:
    """By its module and name also in a process that never sent it, as after `dayfly attach`."""
    module = sys.modules[__name__]
    program = (
        "import sys, cloudpickle, types, enum\n"
        f"module = types.ModuleType({__name__!r}); sys.modules[{__name__!r}] = module\n"
        "exec('import enum\\nclass Color(enum.Enum):\\n    RED = 1\\n"
        "class Wide(Exception):\\n    def other(self): pass\\n', vars(module))\n"
        "cloudpickle.register_pickle_by_value(module)\n"
        "sys.stdout.buffer.write(cloudpickle.dumps([module.Wide(1, 2), module.Color.RED]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    wide, red = outcome.unpack(result("value", done.stdout), run_id="r")
    assert type(wide) is module.Wide
    assert red is Color.RED
    assert not hasattr(Wide, "other")


@pytest.mark.process
def test_a_class_that_is_not_known_here_is_made() -> None:
    """With its methods."""
    program = (
        "import sys, cloudpickle\nclass Far:\n    def f(self): return 5\n"
        "sys.stdout.buffer.write(cloudpickle.dumps(Far()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert outcome.unpack(result("value", done.stdout), run_id="r").f() == 5


def test_a_value_that_cannot_be_loaded_here_names_the_module() -> None:
    """And what to install; the text of the value is kept."""
    missing = b"\x80\x04\x8c\x07cv2_not\x8c\x01f\x93."
    with pytest.raises(UnpicklableResult, match="the module 'cv2_not'") as caught:
        outcome.unpack(result("value", missing, type="cv2.Mat", text="<Mat>"), run_id="abc")
    assert caught.value.text == "<Mat>"
    assert "dayfly result abc" in str(caught.value)
    with pytest.raises(UnpicklableResult, match="cannot be loaded here"):
        outcome.unpack(result("value", b"\x80\x04\x8c\x02os\x8c\x07nothere\x93."), run_id="r")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("unpicklable_value", "returned a Conn"), ("unpicklable_exception", "raised Conn")],
)
def test_what_could_not_be_pickled_there_is_told_with_its_text(kind: str, words: str) -> None:
    """And with the traceback, so that nothing about the failure is lost."""
    sent = result(kind, type="Conn", text="<conn 7>", traceback="Traceback: x")
    with pytest.raises(UnpicklableResult, match=words) as caught:
        outcome.unpack(sent, run_id="r")
    assert caught.value.text == "<conn 7>"
    assert "Traceback: x" in caught.value.__notes__[0]


def test_a_missing_module_names_what_to_add() -> None:
    """The distribution, where it is called otherwise than the module."""
    sent = result("missing_import", modules=["cv2", "cloudpickle.sub"], traceback="where")
    with pytest.raises(EnvironmentFailed) as caught:
        outcome.unpack(sent, run_id="r")
    assert "the modules cv2, cloudpickle.sub" in str(caught.value)
    assert "'opencv-python-headless', 'cloudpickle'" in str(caught.value)
    assert caught.value.__notes__ == ["where"]


def test_an_exit_code_is_an_error_of_its_own() -> None:
    """`sys.exit(3)` in the function does not end the client."""
    with pytest.raises(JobExited) as caught:
        outcome.unpack(result("exited", code=3), run_id="r")
    assert caught.value.code == 3


def test_what_is_unknown_is_refused() -> None:
    """An outcome of a later version, and a raised value that is no exception."""
    with pytest.raises(ResultFailed, match="update dayfly"):
        outcome.unpack(result("novel"), run_id="r")
    with pytest.raises(ResultFailed, match="no exception"):
        outcome.unpack(result("raised", cloudpickle.dumps(7)), run_id="r")


@pytest.mark.parametrize("size", [0, 10, 300, 70_000])
def test_what_pickled_bytes_hold_is_read_from_where_it_lies(size: int) -> None:
    """A result within a result: its own header and value come next, however long they are."""
    inner = result("value", cloudpickle.dumps("x" * size))
    file = io.BytesIO(result("value", cloudpickle.dumps(inner)))
    outcome.take_header(file)
    outcome.enter(file)
    assert outcome.load(file, run_id="r") == "x" * size


def test_what_are_no_pickled_bytes_is_refused() -> None:
    """Nothing of them is loaded."""
    file = io.BytesIO(cloudpickle.dumps(["not", "bytes"]))
    with pytest.raises(ResultFailed, match="several machines"):
        outcome.enter(file)
