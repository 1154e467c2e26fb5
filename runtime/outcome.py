"""What came of a call: turns the result's bytes into the value, or into the exception that the caller sees."""

from __future__ import annotations

import io
import operator
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NoReturn

import cloudpickle.cloudpickle as machinery

from dayfly.errors import (
    CallTimeout,
    EnvironmentFailed,
    JobExited,
    JobKilled,
    JobStopped,
    ResultFailed,
    RunFailed,
    UnpicklableResult,
)
from dayfly.runtime.agent import json_text, known_call
from dayfly.runtime.agent.in_place import in_place

# Where the name to import is not the name to install, for what is not installed here.
_DISTRIBUTIONS = {
    "Crypto": "pycryptodome",
    "PIL": "pillow",
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def unpack(result: bytes, *, run_id: str, nested: bool = False) -> Any:
    """As `load`, from the unsealed result itself."""
    return load(io.BytesIO(result), run_id=run_id, nested=nested)


def load(result: BinaryIO, *, run_id: str, nested: bool = False) -> Any:
    """Give the value that the function returned; large buffers in it stay in the file, or are read to where they stay.

    Args:
        result: a file of the unsealed result, at its beginning: authentic for this run, or this must not be called.
        run_id: names the run in notes and messages.
        nested: of a warm run on several machines: what its calls have left are results, still packed.

    Raises:
        BaseException: the function's own exception, the remote traceback attached as a note.
        UnpicklableResult: the value or the exception could not be pickled there, or not be loaded here.
        EnvironmentFailed: a module that the function imports is not installed on the machine.
        JobExited: the function ended its process with an exit code.
        ResultFailed: the result is of a kind that this version does not know.
    """
    return content(result, take_header(result), run_id=run_id, nested=nested)


def take_header(result: BinaryIO) -> dict[str, Any]:
    """What is said of a result, without unpickling any of it; leaves the file behind that."""
    header: dict[str, Any] = json_text.loads(result.readline())
    return header


def content(
    result: BinaryIO, header: Mapping[str, Any], *, run_id: str, nested: bool = False
) -> Any:
    """As `load`, of a file that stands behind its header."""
    outcome = header["outcome"]
    if outcome == "value":
        return _loaded(result, header, run_id) if _has_more(result) else None
    if outcome == "raised":
        _raise(_loaded(result, header, run_id), header, run_id)
    if outcome == "calls":
        return {number: _told(part, run_id, nested) for number, part in calls(result)}
    if outcome in CALL_FAILURES:
        raise _failed_call(header, run_id)
    if outcome in ("unpicklable_value", "unpicklable_exception"):
        raise _unpicklable(header, run_id)
    if outcome == "missing_import":
        raise _missing(header)
    if outcome == "exited":
        code = int(header["code"])
        raise JobExited(f"the function ended its process with sys.exit({code})", code)
    raise ResultFailed(f"run {run_id} ended with an unknown outcome {outcome!r}: update dayfly")


def enter(result: BinaryIO) -> None:
    """Leave a file, which stands behind its header, at the beginning of what the pickled bytes there hold.

    None of them is read for that: what they are may be large, and is in memory once then.

    Raises:
        ResultFailed: that is no pickle of bytes.
    """
    result.read(2)  # Which protocol it is.
    opcode = result.read(1)
    if opcode == pickle.FRAME:
        result.read(8)
        opcode = result.read(1)
    if opcode not in _SIZES:
        raise ResultFailed("what came of a call is not what a call of several machines gives")
    result.read(_SIZES[opcode])


# Of the number that tells how many bytes follow, by what stands in front of it.
_SIZES = {pickle.SHORT_BINBYTES: 1, pickle.BINBYTES: 4, pickle.BINBYTES8: 8}


def header_of(result: BinaryIO) -> dict[str, Any]:
    """What is said of a result without unpickling any of it; the file stays at its beginning."""
    began = result.tell()
    header = take_header(result)
    result.seek(began)
    return header


def calls(result: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """What a warm run has left, whose client went before it had fetched everything: each call's number and result.

    Args:
        result: behind its header.
    """
    while prefix := result.read(known_call.CALL_PREFIX.size):
        number, size = known_call.CALL_PREFIX.unpack(prefix)
        yield number, result.read(size)


def _has_more(result: BinaryIO) -> bool:
    began = result.tell()
    more = bool(result.read(1))
    result.seek(began)
    return more


def _told(result: bytes, run_id: str, nested: bool) -> Any:
    """The value, or the exception itself."""
    try:
        value = unpack(result, run_id=run_id)
        return unpack(value, run_id=run_id) if nested else value
    except Exception as error:  # noqa: BLE001 - whatever the function raised, for whoever looks at it now
        return error


class NotPlain(Exception):
    """Loading it may run somebody's code, or there is nothing to load."""


def plain(result: BinaryIO) -> Any:
    """Give the value of a file that stands behind its header, as long as it is made of what the format itself knows.

    Raises:
        NotPlain: the file has to be taken from the same place by `content`.
    """
    began = result.tell()
    try:
        return _Plain(result).load()
    except Exception as error:
        result.seek(began)
        raise NotPlain from error


class _Plain(pickle.Unpickler):
    """Refuses whatever has a name: classes, functions, and what they make when they are called."""

    def find_class(self, module: str, name: str, /) -> Any:
        raise NotPlain


CALL_FAILURES = ("died", "stopped", "ended", "timeout", "lost")
_ENDED = b'{"outcome": "ended",'


def ended_with_its_run(result: bytes) -> bool:
    """Whether a call's result says no more than that its run was ended under it, and not why."""
    return result.startswith(_ENDED)


def _failed_call(header: Mapping[str, Any], run_id: str) -> RunFailed:
    """The error for a warm call whose process has not come to its end."""
    if header["outcome"] == "stopped":
        return JobStopped(f"a call of run {run_id} was stopped on request")
    if header["outcome"] == "ended":
        return JobStopped(f"a call of run {run_id} was ended with its run")
    if header["outcome"] == "timeout":
        return CallTimeout(
            f"a call of run {run_id} took longer than its timeout of {header['timeout_s']:g} s, and was ended"
        )
    if header["outcome"] == "lost":
        return RunFailed(
            f"a call of run {run_id} was lost: the way to its machine broke while it was under way, and what came of it is"
            " not known; it is not made again unless retries= says so"
        )
    if not header["signal"]:
        code = int(header["code"])
        return JobExited(
            f"the process of a call of run {run_id} exited with code {code} and left no result",
            code,
        )
    why = (
        "the kernel's out-of-memory killer ended it: ask for more memory, or have fewer calls at once"
        if header["out_of_memory"]
        else f"signal {header['signal']} ended it"
    )
    return JobKilled(
        f"the process of a call of run {run_id} was killed: {why}",
        header["signal"],
        header["out_of_memory"],
    )


def distribution_of(module: str) -> str:
    """What to install so that `module` can be imported, as far as it is known here."""
    from importlib.metadata import packages_distributions

    installed = packages_distributions().get(module)
    return installed[0] if installed else _DISTRIBUTIONS.get(module, module)


class _Unpickler(pickle.Unpickler):
    """Gives classes that are known here as themselves.

    A class of the user's project comes back by value. Loading it as it stands would make a second class that
    `except` and `isinstance` do not know, or overwrite the methods of the first.
    """

    def __init__(self, file: BinaryIO, buffers: Iterable[memoryview] = ()) -> None:
        super().__init__(file, buffers=buffers)
        self._known: dict[int, type] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        if module == machinery.__name__:
            if name == "_make_skeleton_class":
                return self._class
            if name == "_make_skeleton_enum":
                return self._enum
            if name == "_class_setstate":
                return self._set_state
        return super().find_class(module, name)

    def _class(self, *args: Any) -> type:
        return self._local(args[3].get("__module__"), args[1], args[-2]) or self._made(
            machinery._make_skeleton_class(*args)
        )

    def _enum(self, *args: Any) -> type:
        return self._local(args[4], args[2], args[-2]) or self._made(
            machinery._make_skeleton_enum(*args)
        )

    def _local(self, module: str | None, name: str, tracker: str | None) -> type | None:
        """The class of this process that went out under this tracker, or that has this name in this module."""
        found = machinery._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
        if found is None and module in sys.modules:
            try:
                found = operator.attrgetter(name)(sys.modules[module])
            except AttributeError:
                return None
        if not isinstance(found, type):
            return None
        self._known[id(found)] = found
        return found

    @staticmethod
    def _made(made: type) -> type:
        return made

    def _set_state(self, target: type, state: Any) -> type:
        if id(target) in self._known:
            return target
        return machinery._class_setstate(target, state)  # type: ignore[no-any-return]


def _loaded(pickled: BinaryIO, header: Mapping[str, Any], run_id: str) -> Any:
    try:
        return _Unpickler(*in_place(pickled)).load()
    except ModuleNotFoundError as exc:
        module = (exc.name or "").partition(".")[0]
        message = (
            f"the result of run {run_id} is a {header['type']}, and loading it needs the module {module!r}, which "
            f"cannot be imported here: install {distribution_of(module)}, or start from the folder where it is, "
            f"then run `dayfly result {run_id}`"
        )
        raise UnpicklableResult(message, header["text"]) from exc
    except Exception as exc:
        message = (
            f"the result of run {run_id} is a {header['type']}, which cannot be loaded here "
            f"({type(exc).__name__}: {exc}): return plain values instead"
        )
        raise UnpicklableResult(message, header["text"]) from exc


def _raise(error: Any, header: Mapping[str, Any], run_id: str) -> NoReturn:
    if not isinstance(error, BaseException):
        raise ResultFailed(f"run {run_id} raised a {header['type']}, which is no exception")
    error.add_note(_remote(header, run_id))
    raise error


def _remote(header: Mapping[str, Any], run_id: str) -> str:
    host = header.get("provenance", {}).get("host", "the machine")
    return f"\nOn {host}, run {run_id}:\n{header['traceback'].rstrip()}"


def _unpicklable(header: Mapping[str, Any], run_id: str) -> UnpicklableResult:
    kind, text = header["type"], header["text"]
    if header["outcome"] == "unpicklable_value":
        message = f"the function returned a {kind}, which cannot be pickled: {text}"
    else:
        message = f"the function raised {kind}, which cannot be pickled: {text}"
    error = UnpicklableResult(message, text)
    if header["traceback"]:
        error.add_note(_remote(header, run_id))
    return error


def _missing(header: Mapping[str, Any]) -> EnvironmentFailed:
    modules = list(header["modules"])
    wanted = list(dict.fromkeys(distribution_of(name.partition(".")[0]) for name in modules))
    noun = "module" if len(modules) == 1 else "modules"
    error = EnvironmentFailed(
        f"the function imports the {noun} {', '.join(modules)}, not installed on the machine: add "
        f"{', '.join(map(repr, wanted))} to `environment=` or to the project's requirements; "
        "the function was not started"
    )
    if header.get("traceback"):
        error.add_note(header["traceback"])
    return error
