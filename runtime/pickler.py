"""Pickler: cloudpickle that takes the user's own modules along by value, and takes note of what else is needed."""

from __future__ import annotations

import operator
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path, PurePath
from pickle import PicklingError
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, Protocol, TypeGuard

import cloudpickle

from dayfly.infra import retry_after
from dayfly.runtime import (
    carried,
    carried_calls,
    carried_dask,
    carried_making,
    carried_processes,
    code,
    fetched,
    fetched_objects,
    imports,
)
from dayfly.runtime.agent import credentials, tensors
from dayfly.runtime.data import Data
from dayfly.runtime.project import Project, module_file

_MODULE_FACTS = ("__name__", "__package__", "__file__", "__getattr__")
_NOT_NEEDED = sys.stdlib_module_names | {"__main__", "__mp_main__", "cloudpickle", "dayfly"}

_CARRIED = {
    module.__name__: module
    for module in (
        carried,
        carried_calls,
        carried_dask,
        carried_making,
        carried_processes,
        credentials,
        fetched,
        fetched_objects,
        retry_after,
        tensors,
    )
}

# cloudpickle's registry is one for the process: while one thread unregisters, another would pickle by reference.
_REGISTRY = threading.RLock()


class Sink(Protocol):
    """What a pickle is written to."""

    def write(self, data: Any, /) -> int:
        """Take the next bytes, and tell how many they were."""
        ...


class _Call:
    """Stands in the pickle for the result of a call made when it is loaded."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.reduced = (function, args)


class _Rest:
    """Stands in the pickle for what turns out to be needed only while everything before it is pickled."""


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """One pickle of the user's objects; use it inside `by_value`.

    A module of the project that is referenced travels as a module with those of its variables that the travelling
    code mentions: a lock or an open file beside them stays at home. Functions of such a module keep its dictionary as
    their globals. A module that a function imports and that is not loaded here travels as source.

    Args:
        file: takes the pickle.
        project: whose modules travel by value.
        called: the function that runs on the machine: decorated, it is itself there; any other decorated one is not.
        stable: for a digest.

    Attributes:
        codes: every function's code that travels.
        required: top-level names of installed modules without which the code does not load or run.
        files: the source of each module of the project that travels.
        data: the Data that it has come across, by key.
    """

    def __init__(
        self, file: Sink, project: Project, called: Any = None, *, stable: bool = False
    ) -> None:
        super().__init__(file, protocol=5)
        self.codes: dict[CodeType, None] = {}
        self.required: set[str] = set()
        self.sources: dict[str, tuple[str, str, bool]] = {}
        self._project = project
        self._ignore = project.ignore
        self.files: dict[str, Path] = {}
        self.data: dict[str, Data] = {}
        self._called = getattr(called, "__func__", called)
        self._stable = stable
        self._wanted: dict[str, set[str]] = {}
        self._sent: dict[str, set[str]] = {}
        self._sent_sources: set[str] = set()
        self._mine: dict[int, bool] = {}
        self._tensors = tensors.Tensors()
        if stable:
            # Asked of each object, which a pickle that travels must not wait for.
            self.persistent_id = self._placeless

    def pack(self, content: object) -> None:
        """Pickle the content, and behind it all that it needs."""
        self.dump(_Call(carried.opened, content, _Rest()))

    def attributes(self, module: ModuleType) -> Mapping[str, Any]:
        """The variables of a module of the project that travel."""
        names = self._sent.get(module.__name__, set())
        return {name: vars(module)[name] for name in sorted(names)}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, _Call | _Rest | Data):
            return self._own(obj)
        memory = self._tensors.reduced(obj)
        if memory is not None:
            self._require("torch")
            return memory
        bare = bare_function(obj)
        if bare is not obj:
            if bare is self._called:
                return operator.getitem, ((bare,), 0)
            return carried.Elsewhere, (bare,)
        if isinstance(obj, ModuleType) and self._owned(obj):
            return self._module(obj)
        if isinstance(obj, type | FunctionType | BuiltinFunctionType | ModuleType):
            self._note(obj)
        return self._stabilised(obj, super().reducer_override(obj))

    def _own(self, obj: _Call | _Rest | Data) -> tuple[Any, ...]:
        if isinstance(obj, _Call):
            return obj.reduced
        return self._rest() if isinstance(obj, _Rest) else self._path_of(obj)

    def _path_of(self, data: Data) -> tuple[Any, ...]:
        """What gives its path on the machine; behind a URL it is fetched when the pickle is loaded there."""
        self.data[data.key] = data
        if data.scheme:
            return fetched.fetched, (data.key, data.source, data.sha256, data.options)
        return fetched.given, (data.key,)

    def _note(self, obj: Any) -> None:
        """Remember what a function, class or module will need on the machine, before it is pickled."""
        name = obj.__name__ if isinstance(obj, ModuleType) else getattr(obj, "__module__", None)
        name = name if isinstance(name, str) else ""
        if name in _CARRIED:
            return
        module = sys.modules.get(name)
        top = name.partition(".")[0]
        if top == "dayfly":
            raise PicklingError(f"{obj!r} belongs to Dayfly, which is not on the machine")
        owned = self._owned(module)
        if isinstance(obj, FunctionType) and (owned or self._is_dynamic(obj, module)):
            self._note_function(obj)
        elif not owned and module is not None:
            self._require(name)
        if owned and vars(module).get(leaf := getattr(obj, "__name__", "")) is obj:
            self._wanted.setdefault(name, set()).add(leaf)

    def _note_function(self, function: FunctionType) -> None:
        code, space = function.__code__, function.__globals__
        self.codes[code] = None
        home = sys.modules.get(space.get("__name__", ""))
        if home is not None and vars(home) is space and self._owned(home):
            # Its globals are the module's own dictionary there too: `global` and `module.name` stay one variable.
            self._wanted.setdefault(home.__name__, set())
            self.globals_ref.setdefault(id(space), _Call(vars, home))
        names = imports.names_in(code)
        seen = [space[name] for name in names if name in space]
        for cell in function.__closure__ or ():
            try:
                seen.append(cell.cell_contents)
            except ValueError:  # A name that is not bound yet.
                continue
        for value in seen:
            if isinstance(value, ModuleType) and self._owned(value):
                self._want(value, names)
        for statement in imports.of_code(code, space.get("__package__") or ""):
            self._import(statement, names)

    def _import(self, statement: imports.Import, names: Set[str]) -> None:
        """Make what an import statement names available: from the pickle, as source, or as a requirement."""
        parts = statement.module.split(".")
        targets = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
        targets += [f"{statement.module}.{name}" for name in statement.names]
        for target in targets:
            module = sys.modules.get(target)
            if not statement.required and self._stays(module):
                continue
            if self._owned(module) and len(target) < len(statement.module):
                self._wanted.setdefault(target, set())
            elif self._owned(module):
                self._want(module, {*names, *statement.names})
            elif module is None and target.partition(".")[0] not in sys.stdlib_module_names:
                path = self._project.find(target)
                if path is not None and (
                    statement.required or not code.ignored(path, self._ignore)
                ):
                    self._ship(target, path, names)
        if not statement.required:
            return
        if not self._owned(sys.modules.get(parts[0])) and parts[0] not in self.sources:
            self._require(statement.module)

    def _ship(self, name: str, path: Path, names: Set[str]) -> None:
        if name in self.sources:
            return
        parent = name.rpartition(".")[0]
        if parent and parent not in sys.modules and parent not in self.sources:
            self.sources[parent] = ("", "", True)  # A folder without __init__.py.
        code.check(name, path, self._ignore)
        text = code.source(name, path)
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        statements = list(imports.of_source(text, package))
        if any(s.module.partition(".")[0] == "dayfly" for s in statements):
            # Its source cannot be run where Dayfly is not installed; its functions can.
            try:
                module = import_module(name)
            except Exception as error:
                raise code.unimportable(name, path, error) from error
            _register(self._project)
            self._want(module, names)
            return
        self.sources[name] = (text, str(path), path.stem == "__init__")
        self.files[name] = path
        mentioned = imports.names_in_source(text)
        for statement in statements:
            self._import(statement, mentioned)

    def _require(self, name: str) -> None:
        top = name.partition(".")[0]
        if top not in _NOT_NEEDED:
            self.required.add(top)

    def _want(
        self, module: ModuleType, names: Set[str], visited: list[ModuleType] | None = None
    ) -> None:
        """Take those variables of a module along that the code mentions; all of them where it mentions none."""
        visited = [] if visited is None else visited
        visited.append(module)
        wanted = self._wanted.setdefault(module.__name__, set())
        space = vars(module)
        known = {name for name in names if name in space and not name.startswith("__")}
        if "*" in names or not known | wanted:
            # Nothing says which part is used: it is an argument, or handed on as a whole.
            known = {name for name in space if not name.startswith("__")}
        wanted |= known
        for name in known:
            value = space[name]
            # `package.module.name`: the same names again, one step further; modules may refer to each other.
            if isinstance(value, ModuleType) and self._owned(value) and value not in visited:
                self._want(value, names, visited)

    def _module(self, module: ModuleType) -> tuple[Any, ...]:
        name = module.__name__
        if name not in self._wanted:
            self._want(module, set())
        parent, _, leaf = name.rpartition(".")
        if parent in sys.modules:
            # A module is found there as an attribute of its package, which must exist for `import` statements too.
            self._wanted.setdefault(parent, set()).add(leaf)
        facts = {n: vars(module)[n] for n in _MODULE_FACTS if n in vars(module)}
        if "__path__" in vars(module):
            facts["__path__"] = list(module.__path__)
        return carried.module, (name, module.__doc__), {**facts, **self._unsent(module)}

    def _unsent(self, module: ModuleType) -> dict[str, Any]:
        sent = self._sent.setdefault(module.__name__, set())
        new = self._wanted.get(module.__name__, set()) - sent
        sent |= new
        # Sorted, because the order of a set of strings differs from process to process.
        return {name: vars(module)[name] for name in sorted(new) if name in vars(module)}

    def _rest(self) -> tuple[Any, ...]:
        """One more round: pickling its content may show that still more is needed, so it ends in another."""
        wanted = sorted(
            name
            for name, names in self._wanted.items()
            if name not in self._sent or names - self._sent[name]
        )
        modules = [sys.modules[name] for name in wanted if name in sys.modules]
        sources = {n: s for n, s in self.sources.items() if n not in self._sent_sources}
        if not modules and not sources:
            return int, ()
        self._sent_sources |= set(sources)
        states = [(module, self._unsent(module)) for module in modules]
        return carried.complete, (states, sources, _Rest())

    def _owned(self, module: object) -> TypeGuard[ModuleType]:
        if not isinstance(module, ModuleType):
            return False
        if id(module) not in self._mine:
            self._mine[id(module)] = self._project.owns(module)
            file = module_file(module) if self._mine[id(module)] else None
            if file is not None:
                # Whatever asks has come across it on its way: it is about to travel.
                code.check(module.__name__, file, self._ignore)
                self.files[module.__name__] = file
        return self._mine[id(module)]

    def _stays(self, module: object) -> bool:
        """Whether a loaded module of the project is one that stays here."""
        if not isinstance(module, ModuleType) or not self._project.owns(module):
            return False
        file = module_file(module)
        return file is not None and bool(code.ignored(file, self._ignore))

    @staticmethod
    def _is_dynamic(function: FunctionType, module: ModuleType | None) -> bool:
        """True where it cannot be found by its name, and so travels by value wherever it comes from."""
        if module is None or function.__module__ == "__main__":
            return True
        try:
            return operator.attrgetter(function.__qualname__)(module) is not function
        except AttributeError:
            return True

    def _stabilised(self, obj: Any, reduced: Any) -> Any:
        """For a digest: without what differs from process to process for the same code."""
        if not self._stable:
            return reduced
        if isinstance(obj, type) and isinstance(reduced, tuple) and len(reduced) == 6:
            # The last but one is the random number by which cloudpickle knows a class again; copyreg leaves its
            # __slotnames__ in a class whose instance was pickled.
            state = {k: v for k, v in reduced[2][0].items() if k != "__slotnames__"}
            arguments = (*reduced[1][:-2], "", None)
            return (reduced[0], arguments, (state, reduced[2][1]), *reduced[3:])
        if getattr(obj, "__module__", None) in tuple(_CARRIED):
            return str, (obj.__name__,)  # Dayfly's own code is no part of the user's.
        if isinstance(obj, CodeType):
            function, args = self.dispatch_table[CodeType](obj)
            consts = tuple(
                sorted(map(repr, c)) if isinstance(c, frozenset) else c for c in obj.co_consts
            )
            return function, tuple(consts if arg is obj.co_consts else arg for arg in args)
        return reduced

    def _placeless(self, obj: object) -> tuple[str, object] | None:
        """For a digest: sets in one order, and files by their places in the project, which may lie elsewhere."""
        root = self._project.root
        if type(obj) in (set, frozenset):
            return "set", sorted(obj, key=repr)  # type: ignore[call-overload]  # it is one of them
        if type(obj) is str and obj.startswith(f"{root}{os.sep}"):
            return "file", obj[len(str(root)) + 1 :]
        if isinstance(obj, PurePath) and obj.is_relative_to(root):
            return "path", obj.relative_to(root).as_posix()
        return None


_registered: list[ModuleType] = []  # By this process, in order; guarded by _REGISTRY.


@contextmanager
def by_value(project: Project) -> Iterator[None]:
    """Within it the project's modules are pickled by value; one thread at a time, so that none undoes another's."""
    with _REGISTRY:
        before = len(_registered)
        try:
            _register(project)
            yield
        finally:
            while len(_registered) > before:
                cloudpickle.unregister_pickle_by_value(_registered.pop())


def _register(project: Project) -> None:
    # What the user registered is left out, and so stays registered afterwards.
    known = cloudpickle.list_registry_pickle_by_value()
    for name, module in {**_CARRIED, **project.modules()}.items():
        if name not in known and sys.modules.get(name) is module:
            cloudpickle.register_pickle_by_value(module)
            _registered.append(module)


def bare_function(obj: Any) -> Any:
    """The function inside an object that `@cluster` made, else the object itself.

    Known by an attribute and not by its class, so that nothing of Dayfly is looked up on the machine.
    """
    if isinstance(obj, type):
        return obj
    try:
        bare = obj.__dayfly_function__
    except Exception:  # noqa: BLE001 - __getattr__ of a user's class may do anything
        return obj
    return bare if callable(bare) else obj


class Discard:
    """A file that forgets what is written, for trials of whether something can be pickled at all."""

    def write(self, data: Any, /) -> int:
        return memoryview(data).nbytes
