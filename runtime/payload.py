"""Payload: the function and its arguments as bytes that load on a machine which has neither the project nor Dayfly."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import linecache
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType
from typing import Any

import cloudpickle

from dayfly.errors import PayloadError
from dayfly.infra import retry_after
from dayfly.runtime import carried, fetched, fetched_objects
from dayfly.runtime.agent import frames, tensors
from dayfly.runtime.agent.layout import Layout, aligned
from dayfly.runtime.code import Code
from dayfly.runtime.culprit import Culprit, Search, advice
from dayfly.runtime.data import Data
from dayfly.runtime.digest import Digest
from dayfly.runtime.outcome import unpack
from dayfly.runtime.parts import Parts
from dayfly.runtime.pickler import Discard, Pickler, bare_function, by_value
from dayfly.runtime.project import Project

__all__ = [
    "PYTHON",
    "Payload",
    "pack",
    "pack_arguments",
    "pack_function",
    "pack_own",
    "pack_relay",
    "pickler_zip",
    "project_of",
    "unpack",
    "warm_task",
    "with_settings",
]

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
MAX_SOURCE_BYTES = 2 * 1024 * 1024
_OWN_FILES = tuple(m.__file__ for m in (carried, fetched, fetched_objects, retry_after))


@dataclass(frozen=True)
class Payload:
    """What `pack` made of a call.

    Attributes:
        task: the header line and the pickle, unsealed; large arguments are in it by reference.
        code_digest: SHA-256 of the function's part, the same for the same code in another process.
        function: "module:qualified name".
        project_root: the folder whose code travels by value.
        imports: top-level modules that must be installed on the machine.
        code: how much of the user's own travels.
        data: what becomes a path on the machine, by key.
    """

    task: Parts
    code_digest: str
    function: str
    project_root: Path
    imports: tuple[str, ...]
    code: Code
    data: Mapping[str, Data]


def pack(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Payload:
    """Pickle a call with all of the user's own code that it needs.

    A coroutine function is awaited in an event loop of its own on the machine.

    Raises:
        PayloadError: the function or an argument cannot travel; `path` names the part.
    """
    function, called, project = _prepared(fn)
    with by_value(project):
        content = (called, tuple(args), dict(kwargs))
        pickler, pickled = _pickled(project, function, content, args, kwargs)
        digest = _code_digest(called, project, _innermost(function))
    return _payload(function, project, pickler, pickled, digest)


def pack_function(
    fn: Callable[..., Any],
    told: Callable[[Mapping[str, Data]], Mapping[str, Any]] = lambda _: {},
) -> Payload:
    """Pickle a function alone, to be called many times with what `pack_arguments` makes.

    Its `code_digest` is that of the task's bytes: whatever is different in them makes it another function.

    Args:
        fn: the function.
        told: gives what its header has to say of the Data that it holds.

    Raises:
        PayloadError: as `pack`.
    """
    function, called, project = _prepared(fn)
    with by_value(project):
        pickler, pickled = _pickled(project, function, called, (), {})
    return _payload(function, project, pickler, pickled, None, more=told(pickler.data))


def pack_arguments(
    fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[bytes | Parts, Mapping[str, Data]]:
    """Pickle what a function is to be called with, for a process in which it is loaded.

    Returns:
        The pickle, with large arguments by reference, and what becomes a path on the machine, by key.

    Raises:
        PayloadError: an argument cannot travel; `path` names the part.
    """
    content = (tuple(args), dict(kwargs))
    if not kwargs and all(map(tensors.is_atom, args)):
        return pickle.dumps(content, protocol=5), {}
    with contextlib.suppress(_NotPlain):
        return _plain(content), {}
    function, _, project = _prepared(fn)
    with by_value(project):
        pickler, pickled = _pickled(project, function, content, args, kwargs)
    return pickled, pickler.data


def warm_task(fn: Callable[..., Any], settings: Mapping[str, Any]) -> Payload:
    """The task of a warm run: what a function needs, and how its calls are to be made, but nothing to call yet.

    Raises:
        PayloadError: as `pack`.
    """
    packed = pack_function(fn)
    header = {
        "python": PYTHON,
        "function": packed.function,
        "imports": packed.imports,
        "sources": {},
        "warm": dict(settings),
    }
    return replace(packed, task=Parts([json.dumps(header).encode() + b"\n"]))


def with_settings(task: Payload, settings: Mapping[str, Any]) -> Payload:
    """A warm task with what is known by now of how its calls are to be made."""
    header = {**json.loads(bytes(task.task)), "warm": dict(settings)}
    return replace(task, task=Parts([json.dumps(header).encode() + b"\n"]))


def pack_own(fn: Callable[..., Any], own: Callable[..., Any], *args: Any) -> Payload:
    """Pickle a call of Dayfly's own code that travels, for a machine that serves a function."""
    return _packed_own(fn, (own, args, {}))


def pack_relay(
    fn: Callable[..., Any], needs: Set[str], own: Callable[..., Any], *bound: Any
) -> Payload:
    """Pickle Dayfly's own code that is called in the place of a function, and needs these modules."""
    return _packed_own(fn, functools.partial(own, *bound), needs)


def _packed_own(fn: Callable[..., Any], content: object, needs: Set[str] = frozenset()) -> Payload:
    function, _, project = _prepared(fn)
    with by_value(project):
        pickler, pickled = _pickled(project, function, content, (), {})
    pickler.required |= needs
    return _payload(function, project, pickler, pickled, None)


def project_of(fn: Callable[..., Any]) -> Project:
    """The project whose code travels with a function."""
    return Project.of_file(_filename(bare_function(fn)))


class _NotPlain(Exception):
    """Something that only the full pickler knows how to send."""


class _PlainPickler(pickle.Pickler):
    """For arguments without anything of the user's own: many times as fast as the full one."""

    def reducer_override(self, obj: Any) -> Any:
        # It is asked about everything that the pickle format has no form of its own for.
        home = getattr(obj, "__module__", None) or type(obj).__module__
        if home.partition(".")[0] == "numpy":
            return NotImplemented
        raise _NotPlain


def _plain(content: object) -> Parts:
    file = Parts()
    layout = Layout(file)
    try:
        _PlainPickler(layout, protocol=5).dump(content)
    except RecursionError:
        raise _NotPlain from None
    layout.end()
    return file


def _prepared(fn: Callable[..., Any]) -> tuple[Any, Any, Project]:
    """The bare function, what is to be called in its place, and its project."""
    function = bare_function(fn)
    _check_kind(function)
    called = functools.partial(carried.run_coroutine, function) if _is_async(function) else function
    return function, called, project_of(function)


def _pickled(
    project: Project,
    function: Any,
    content: object,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[Pickler, Parts]:
    file = Parts()
    layout = Layout(file)
    pickler = Pickler(layout, project, _innermost(function))
    try:
        pickler.pack(content)
        layout.end()
    except PayloadError:
        raise  # A module that cannot travel, with its reason.
    except Exception as exc:  # Pickling runs the code of any class, which may raise anything.
        search = Search(functools.partial(_trial, project), pickler.attributes)
        raise _refusal(search, function, args, kwargs, exc) from exc
    return pickler, file


def _payload(
    function: Any,
    project: Project,
    pickler: Pickler,
    pickled: Parts,
    digest: Digest | None,
    *,
    more: Mapping[str, Any] = types.MappingProxyType({}),
) -> Payload:
    header = {
        **more,
        "python": PYTHON,
        "function": _name(function),
        "imports": sorted(pickler.required),
        "sources": _sources(pickler.codes),
    }
    # Its seal goes in front of all, and what is large in it stays where arrays may begin.
    task = pickled.behind(aligned(json.dumps(header).encode(), frames.HEADER_BYTES))
    size = len(pickled)
    code = Code.of(project.root, pickler.files, size if digest is None else digest.size, size)
    hexdigest = task.sha256().hex() if digest is None else digest.hexdigest()
    name, imports = _name(function), tuple(header["imports"])
    return Payload(task, hexdigest, name, project.root, imports, code, pickler.data)


def pickler_zip(folder: Path) -> Path:
    """The cloudpickle of this process as a zip file in `folder`, made once for each version."""
    path = folder / f"cloudpickle-{cloudpickle.__version__}.zip"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_suffix(f".{os.getpid()}.{os.urandom(4).hex()}")
    package = Path(cloudpickle.__file__).parent
    with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
        for source in sorted(package.glob("*.py")):
            # Without the files' times, the same version has the same digest on every computer.
            entry = zipfile.ZipInfo(f"cloudpickle/{source.name}")
            archive.writestr(entry, source.read_bytes(), zipfile.ZIP_DEFLATED)
    aside.replace(path)
    return path


def _check_kind(function: Any) -> None:
    if not callable(function):
        raise PayloadError(f"{function!r} cannot be called")
    target = _innermost(function)
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise PayloadError(
            f"function {_label(function)} is a generator, which cannot come back: return a list",
            f"function {_label(function)}",
        )


def _innermost(function: Any) -> Any:
    """The code behind partials, methods and callable objects."""
    while isinstance(function, functools.partial):
        function = bare_function(function.func)
    function = getattr(function, "__func__", function)
    if not inspect.isroutine(function) and not isinstance(function, type):
        return getattr(type(function).__call__, "__func__", type(function).__call__)
    return function


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(_innermost(function))


def _filename(function: Any) -> str:
    code = getattr(_innermost(function), "__code__", None)
    if isinstance(code, CodeType):
        return code.co_filename
    module = sys.modules.get(getattr(_innermost(function), "__module__", None) or "")
    return getattr(module, "__file__", None) or "<none>"


def _name(function: Any) -> str:
    named = function if isinstance(function, type) else _innermost(function)
    return f"{getattr(named, '__module__', None) or '__main__'}:{named.__qualname__}"


def _label(function: Any) -> str:
    return str(getattr(_innermost(function), "__name__", type(function).__name__))


def _code_digest(function: Any, project: Project, innermost: Any) -> Digest:
    digest = Digest()
    Pickler(digest, project, innermost, stable=True).pack(function)
    return digest


def _sources(codes: Mapping[CodeType, None]) -> dict[str, str]:
    """The text of the files and cells behind the code, so that a traceback there shows its lines."""
    sources: dict[str, str] = {}
    room = MAX_SOURCE_BYTES
    for name in dict.fromkeys(code.co_filename for code in codes):
        if Path(name).exists():
            linecache.checkcache(name)
        text = "".join(linecache.getlines(name))
        room -= len(text)
        if text and room > 0 and name not in _OWN_FILES:
            sources[name] = text
    return sources


def _refusal(
    search: Search,
    function: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    error: Exception,
) -> PayloadError:
    parts: list[tuple[str, Any]] = [(f"argument {n}", value) for n, value in enumerate(args, 1)]
    parts += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    # The function first: what it takes along may be what an argument's class refers to as well.
    parts.insert(0, (f"function {_label(function)}", function))
    culprit = search.find(parts)
    if culprit is None:
        return PayloadError(f"the call cannot travel: {type(error).__name__}: {error}")
    return PayloadError(_message(culprit), culprit.path)


def _message(culprit: Culprit) -> str:
    error = culprit.error
    kind = f"{type(culprit.leaf).__module__}.{type(culprit.leaf).__qualname__}"
    kind = kind.removeprefix("builtins.")
    return (
        f"{culprit.path} cannot travel to the machine: it is a {kind} ({error}); "
        f"{advice(culprit.leaf, error)}"
    )


def _trial(project: Project, obj: Any) -> BaseException | None:
    try:
        Pickler(Discard(), project).pack(obj)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is why the object cannot travel
        return exc
    return None
