"""A call travels with all of the user's own code, and what cannot travel is named."""

from __future__ import annotations

import functools
import importlib
import json
import linecache
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from dayfly.errors import PayloadError
from dayfly.runtime import payload
from dayfly.runtime.agent import frames, job_folder, processes
from dayfly.runtime.parts import Parts
from tests import far

pytestmark = pytest.mark.process

MAIN = """
import threading
import helpers
import pkg.sub
from helpers import Model

LOCK = threading.Lock()
RATE = 3

def scaled(x):
    return RATE * helpers.double(x)

def counted():
    return helpers.bump(), helpers.COUNT, pkg.sub.bump_twice(), helpers.COUNT

def model(given):
    made = Model(given.x + 1)
    return isinstance(given, helpers.Model), made

def lazily(n):
    from helpers import Model as Same
    from pkg.lazy import build
    made = build(n)
    return isinstance(made, Same), made.x

def relative():
    from lonely.inner import VALUE
    return VALUE

def boom():
    raise pkg.sub.Boom("wide", 7)

def locked():
    return helpers.locked()

async def later(x):
    return x + 1

def fall(n):
    return scaled(1) if n == 0 else 1 + fall(n - 1)

def scaled_here():
    return scaled.local(1)

def numbers():
    yield 1

def guarded():
    try:
        import surely_missing_module
    except ImportError:
        surely_missing_module = None
    import needed_module.inner
    import json
    return needed_module
"""
HELPERS = """
import threading
import pkg

LOCK = threading.Lock()
COUNT = 0

class Model:
    def __init__(self, x):
        self.x = x

def double(x):
    return 2 * x

def bump():
    global COUNT
    COUNT += 1
    return COUNT

def locked():
    with LOCK:
        return 1
"""
SUB = """
import helpers

class Boom(Exception):
    def __init__(self, what, size):
        super().__init__(what, size)
        self.size = size

def bump_twice():
    helpers.bump()
    return helpers.bump()
"""
FILES = {
    "pyproject.toml": "",
    "main_module.py": MAIN,
    "helpers.py": HELPERS,
    "pkg/__init__.py": "from . import sub\n",
    "pkg/sub.py": SUB,
    "pkg/lazy.py": "from helpers import Model\nfrom .deep.leaf import LEAF\n"
    "def build(n):\n    return Model(n + LEAF)\n",
    "pkg/deep/leaf.py": "LEAF = 7\n",
    "lonely/inner.py": "from .other import VALUE\n",
    "lonely/other.py": "VALUE = 'alone'\n",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


Load = Callable[[str], Any]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Imports a module of a project in a folder of its own; afterwards nothing of it is loaded."""
    root = tmp_path / "project"
    write(root, FILES)
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(root))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(root) in (str(getattr(sys.modules[name], "__file__", ""))):
            del sys.modules[name]
    linecache.clearcache()


@pytest.fixture
def main(load: Load) -> Any:
    return load("main_module")


def decorated(function: Callable[..., Any]) -> Any:
    class Remote:
        def __init__(self) -> None:
            self.__dayfly_function__ = function
            self.lock = threading.Lock()

    return Remote()


def test_a_function_of_the_project_runs_where_the_project_is_not(main: Any, tmp_path: Path) -> None:
    """It takes the modules along that it uses, and a global of its own."""
    assert far.call(tmp_path, main.scaled, 5) == 30


def test_what_the_module_was_set_to_here_holds_there(main: Any, tmp_path: Path) -> None:
    """By value: a variable changed after the import travels as it is now."""
    main.RATE = 100
    assert far.call(tmp_path, main.scaled, 1) == 200


def test_modules_stay_modules(main: Any, tmp_path: Path) -> None:
    """`global`, `module.name` and another module's functions all see one variable, though the modules form a circle."""
    assert far.call(tmp_path, main.counted) == (1, 1, 3, 3)


def test_a_lock_beside_the_function_stays_at_home(main: Any, tmp_path: Path) -> None:
    """What no travelling code mentions does not travel: the modules hold locks all the same."""
    assert isinstance(main.helpers.LOCK, type(threading.Lock()))
    assert far.call(tmp_path, main.scaled, 1) == 6


def test_classes_come_back_as_themselves(main: Any, tmp_path: Path) -> None:
    """An instance of the project's class is one there and here, and the class here is left as it was."""
    method = main.Model.__init__
    known, made = far.call(tmp_path, main.model, main.Model(1))
    assert known
    assert type(made) is main.Model
    assert made.x == 2
    assert main.Model.__init__ is method


def test_imports_inside_functions_work(main: Any, tmp_path: Path) -> None:
    """A module that is not loaded here travels as source, and shares classes with those that are."""
    assert "pkg.lazy" not in sys.modules
    assert far.call(tmp_path, main.lazily, 1) == (True, 8)
    assert "pkg.lazy" not in sys.modules


def test_a_folder_without_init_is_a_package_there_too(main: Any, tmp_path: Path) -> None:
    """Namespace packages and relative imports travel as source."""
    assert far.call(tmp_path, main.relative) == "alone"


def test_a_lazily_imported_module_may_use_the_decorator(load: Load, tmp_path: Path) -> None:
    """Its source could not run without Dayfly, so it is imported here and travels by value."""
    write(
        tmp_path / "project",
        {
            "late.py": "def f():\n    import with_decorator\n    return with_decorator.g.local()\n",
            "with_decorator.py": "from dayfly import cluster\n\n@cluster(provider='local')\ndef g():\n    return 5\n",
        },
    )
    assert far.call(tmp_path, load("late").f) == 5


def test_a_deleted_file_still_packs(main: Any, tmp_path: Path) -> None:
    """The code is in memory; only its lines are missing from a traceback."""
    (tmp_path / "project" / "main_module.py").unlink()
    assert far.call(tmp_path, main.scaled, 5) == 30


def test_how_the_calls_of_a_warm_task_are_made_can_be_said_later(main: Any) -> None:
    """When the machine is there; nothing else of it is another."""
    task = payload.warm_task(main.scaled, {"slots": 0, "isolation": "fork"})
    told = [
        json.loads(bytes(each.task)) for each in (task, payload.with_settings(task, {"slots": 5}))
    ]
    assert told[1] == {**told[0], "warm": {"slots": 5}}


def test_a_lambda_and_a_nested_function_travel(main: Any, tmp_path: Path) -> None:
    """With their closures, and with this test module's own function."""
    offset = 5
    assert far.call(tmp_path, lambda x: x + offset, 1) == 6
    assert far.call(tmp_path, functools.partial(main.scaled, 2)) == 12


def test_a_coroutine_function_is_awaited_there(main: Any, tmp_path: Path) -> None:
    """Its value comes back, not a coroutine."""
    assert far.call(tmp_path, main.later, 1) == 2


def test_bound_methods_and_callable_objects_travel(tmp_path: Path) -> None:
    """With the object that they are bound to."""

    class Adder:
        def __init__(self, n: int) -> None:
            self.n = n

        def add(self, x: int) -> int:
            return self.n + x

        def __call__(self, x: int) -> int:
            return self.n * x

    assert far.call(tmp_path, Adder(2).add, 5) == 7
    assert far.call(tmp_path, Adder(2), 5) == 10


def test_a_generator_function_is_refused(main: Any) -> None:
    """A generator cannot come back."""
    with pytest.raises(PayloadError, match="return a list"):
        payload.pack(main.numbers, (), {})


def test_a_decorated_function_travels_as_its_bare_function(main: Any, tmp_path: Path) -> None:
    """Recursion by the global name needs no Dayfly there."""
    main.fall = decorated(main.fall)
    assert far.call(tmp_path, main.fall, 4) == 4 + 6


def test_another_decorated_function_never_runs_on_the_wrong_machine(
    main: Any, tmp_path: Path
) -> None:
    """It was given a machine of its own, which cannot be had from there; `local` says that this one is meant."""
    main.scaled = decorated(main.scaled)
    with pytest.raises(RuntimeError, match=r"scaled is decorated .* write scaled\.local\(\.\.\.\)"):
        far.call(tmp_path, main.fall, 4)
    assert far.call(tmp_path, main.scaled_here) == 6


def test_an_object_of_dayfly_is_refused(main: Any) -> None:
    """It is not installed there; the message names where the function has it from."""
    error = PayloadError("x")
    with pytest.raises(PayloadError, match="belongs to Dayfly") as caught:
        payload.pack(lambda: error, (), {})
    assert caught.value.path == "function <lambda>, closure variable 'error', class PayloadError"


def test_eight_threads_pack_at_once_by_value(main: Any, tmp_path: Path) -> None:
    """No thread undoes another's registration: every payload loads where the project is not."""
    start = threading.Barrier(8)

    def pack(n: int) -> list[Parts]:
        start.wait()
        return [payload.pack(main.scaled, (n,), {}).task for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        tasks = [task for made in pool.map(pack, range(8)) for task in made]
    texts = (b"main_module\nscaled", b"\x8c\x06scaled\x93")
    assert not any(text in bytes(task) for task in tasks for text in texts)
    for n in range(0, 40, 7):
        assert payload.unpack(far.run(tasks[n], tmp_path), run_id="f") == 6 * (n // 5)
    assert not {"helpers", "main_module"} & cloudpickle.list_registry_pickle_by_value()


def test_registrations_of_the_user_are_kept(main: Any) -> None:
    """What was registered before stays so, also when packing fails."""
    cloudpickle.register_pickle_by_value(main.helpers)
    try:
        payload.pack(main.scaled, (1,), {})
        with pytest.raises(PayloadError):
            payload.pack(main.locked, (), {})
        assert "helpers" in cloudpickle.list_registry_pickle_by_value()
    finally:
        cloudpickle.unregister_pickle_by_value(main.helpers)


def test_a_virtual_environment_inside_the_project_is_not_the_project(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is installed in it travels by reference, as what is installed elsewhere, whatever the folder is called."""
    from uv import find_uv_bin

    root = tmp_path / "project"
    venv = [find_uv_bin(), "venv", "--quiet", "--python", sys.executable, str(root / "tools")]
    subprocess.run(venv, check=True)
    site = next((root / "tools" / "lib").glob("python3*")) / "site-packages"
    write(site, {"installed.py": "def f(x):\n    return x\n"})
    write(root / "tools", {"loose.py": "def f(x):\n    return x\n"})
    write(
        root,
        {"user.py": "import installed, loose\ndef g():\n    return installed.f(1), loose.f(1)\n"},
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.syspath_prepend(str(root / "tools"))
    packed = payload.pack(load("user").g, (), {})
    assert packed.imports == ("installed", "loose")
    assert not [name for name in far.header(packed.task)["sources"] if "tools" in name]


@pytest.mark.parametrize(
    ("arguments", "named", "path"),
    [
        ((1, [threading.Lock()]), {}, "argument 2, [0]"),
        ((), {"cfg": {"lock": threading.Lock()}}, "argument 'cfg', ['lock']"),
        (([0] * 50_000 + [threading.Lock()] + [0] * 50_000,), {}, "argument 1, [50000]"),
        (((n for n in range(1)),), {}, "argument 1"),
    ],
)
def test_the_part_of_an_argument_is_named(
    arguments: tuple[Any, ...], named: dict[str, Any], path: str
) -> None:
    """By position or name, and by the way down to it."""
    with pytest.raises(PayloadError) as caught:
        payload.pack(print, arguments, named)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path} cannot travel to the machine: it is a ")


def test_a_socket_in_an_attribute_is_named() -> None:
    """With what to do instead."""

    class Holder:
        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

    with (
        socket.socket() as sock,
        pytest.raises(PayloadError, match="pass what it is opened with") as caught,
    ):
        payload.pack(print, (1, Holder(sock)), {})
    assert caught.value.path == "argument 2, .sock"


def test_what_a_function_captures_is_named(main: Any) -> None:
    """A closure, a global, and a global of a function that it calls in another module."""
    lock = threading.Lock()
    with pytest.raises(PayloadError) as caught:
        payload.pack(lambda: lock, (), {})
    assert caught.value.path == "function <lambda>, closure variable 'lock'"
    with pytest.raises(PayloadError) as caught:
        payload.pack(main.locked, (), {})
    assert caught.value.path.startswith("function locked, global variable 'helpers', .locked")
    assert caught.value.path.endswith("global variable 'LOCK'")


def test_a_circle_does_not_hang_the_search() -> None:
    """The way leads round the circle once."""

    class Node:
        other: Any = None
        lock: Any = None

    one, two = Node(), Node()
    one.other, two.other, one.lock = two, one, threading.Lock()
    with pytest.raises(PayloadError) as caught:
        payload.pack(print, (one,), {})
    assert caught.value.path == "argument 1, .lock"


def test_the_header_says_what_the_machine_must_know(main: Any) -> None:
    """Python minor, name, source text of every file that travels, and what must be installed."""
    packed = payload.pack(main.counted, (), {})
    header = far.header(packed.task)
    assert header["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert header["function"] == packed.function == "main_module:counted"
    assert {Path(name).name for name in header["sources"]} == {
        "main_module.py",
        "helpers.py",
        "sub.py",
    }
    assert MAIN in header["sources"].values()
    assert header["imports"] == []


def test_only_imports_that_the_function_cannot_do_without_are_required(main: Any) -> None:
    """Not those in a `try` block, of the standard library, or of the project."""
    assert payload.pack(main.guarded, (), {}).imports == ("needed_module",)
    assert payload.pack(main.lazily, (1,), {}).imports == ()


def test_a_used_module_of_another_distribution_is_required(tmp_path: Path) -> None:
    """Also one that is imported at the top of the file, or that only an argument's class comes from."""
    from packaging.version import Version

    assert payload.pack(lambda: pytest.skip, (), {}).imports == ("pytest",)
    assert payload.pack(print, (Version("1"),), {}).imports == ("packaging",)


def test_large_sources_are_left_out(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They only serve tracebacks."""
    monkeypatch.setattr(payload, "MAX_SOURCE_BYTES", 10)
    assert far.header(payload.pack(load("main_module").scaled, (1,), {}).task)["sources"] == {}


def test_the_exception_comes_back_with_the_remote_lines(main: Any, tmp_path: Path) -> None:
    """As itself, so that `except` catches it, with the source line that raised it there."""
    with pytest.raises(main.pkg.sub.Boom) as caught:
        far.call(tmp_path, main.boom)
    assert caught.value.size == 7
    assert 'raise pkg.sub.Boom("wide", 7)' in "".join(caught.value.__notes__)


def test_the_code_digest_is_of_the_code(main: Any, tmp_path: Path) -> None:
    """Equal for other arguments and in another process, different for other code."""
    one = payload.pack(main.model, (main.Model(1),), {}).code_digest
    assert payload.pack(main.model, (main.Model(2),), {}).code_digest == one
    assert payload.pack(main.scaled, (2,), {}).code_digest != one
    program = "import sys; sys.path.insert(0, sys.argv[1]); import main_module; from dayfly.runtime import payload; "
    program += "print(payload.pack(main_module.model, (), {}).code_digest)"
    command = [sys.executable, "-c", program, str(tmp_path / "project")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == one


def test_the_code_digest_is_the_same_in_another_folder_and_with_another_hash_seed(
    tmp_path: Path,
) -> None:
    """A plan of one computer is kept to on another one; a set, a path and an imported source are no difference."""
    code = (
        "from pathlib import Path\n"
        "NAMES = {'alpha', 'beta', 'gamma', 'delta', 'epsilon'}\n"
        "HERE, FILE = Path(__file__).parent, __file__\n"
        "def f():\n"
        "    import beside\n"
        "    return NAMES, HERE, FILE, beside.x\n"
    )
    program = "import sys; sys.path.insert(0, sys.argv[1]); import mine; from dayfly.runtime import payload; "
    program += "print(payload.pack(mine.f, (), {}).code_digest)"
    digests = list[str]()
    for number, x in enumerate((1, 1, 1, 2)):
        folder = tmp_path / f"folder-{min(number, 2)}"
        folder.mkdir(exist_ok=True)
        (folder / "pyproject.toml").touch()
        (folder / "mine.py").write_text(code)
        (folder / "beside.py").write_text(f"x = {x}\n")
        command = [sys.executable, "-c", program, str(folder)]
        variables = {**os.environ, "PYTHONHASHSEED": str(number)}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
        digests.append(done.stdout.strip())
    assert len(set(digests[:3])) == 1
    assert digests[3] != digests[0]


def test_the_pickler_is_zipped_once_and_always_the_same(tmp_path: Path) -> None:
    """Its digest is its identity on the machine."""
    first = payload.pickler_zip(tmp_path / "a")
    assert first.name == f"cloudpickle-{cloudpickle.__version__}.zip"
    assert payload.pickler_zip(tmp_path / "a") == first
    assert payload.pickler_zip(tmp_path / "b").read_bytes() == first.read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == [first.name]


def test_a_script_travels_by_value_with_its_neighbours(tmp_path: Path) -> None:
    """`__main__` is never importable there; a module beside it belongs to it."""
    script = (
        "import sys, beside\nfrom dayfly.runtime import payload\n"
        "def f(x):\n    return beside.g(x)\n"
        "sys.stdout.buffer.write(bytes(payload.pack(f, (4,), {}).task))\n"
    )
    write(tmp_path, {"script.py": script, "beside.py": "def g(x):\n    return x * x\n"})
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, check=True
    )
    assert payload.unpack(far.run(done.stdout, tmp_path), run_id="f") == 16


@pytest.mark.parametrize(("name", "arguments"), [("lazily", (1,)), ("later", (1,)), ("boom", ())])
def test_the_real_agent_runs_what_was_packed(
    main: Any, tmp_path: Path, name: str, arguments: tuple[Any, ...]
) -> None:
    """From the sealed task to the sealed result, in an interpreter without any installed package."""
    run_id, key = "0" * 32, bytes(32)
    packed = payload.pack(getattr(main, name), arguments, {})
    job = job_folder.JobFolder(str(tmp_path / f"job-{run_id}"))
    for folder in ("", "work", "outputs"):
        Path(job.file(folder)).mkdir()
    sealed = bytes(packed.task.sealed(key, run_id, frames.TASK_SEQ))
    assert sealed == frames.seal(key, run_id, frames.TASK_SEQ, bytes(packed.task))
    Path(job.file("task.sealed")).write_bytes(sealed)
    with zipfile.ZipFile(payload.pickler_zip(tmp_path)) as archive:
        archive.extractall(tmp_path / "pickler")
    order = {"run_id": run_id, "key": key.hex(), "secrets": {}, "lock": 0}
    given = json.dumps({**order, "pickler": str(tmp_path / "pickler")}).encode()
    command = processes.launch_command(sys.executable, ("-I", "-S"), "run", job.path)
    subprocess.run(command, input=given, check=True, cwd=tmp_path, capture_output=True)
    data = Path(job.file("result.sealed")).read_bytes()
    result = frames.unseal(key, run_id, frames.RESULT_SEQ, data)
    if name == "boom":
        with pytest.raises(main.pkg.sub.Boom) as caught:
            payload.unpack(result, run_id=run_id)
        assert 'raise pkg.sub.Boom("wide", 7)' in caught.value.__notes__[0]
    else:
        assert payload.unpack(result, run_id=run_id) == {"lazily": (True, 8), "later": 2}[name]


# -- what of the project travels, and what must not


def _function_with(load: Load, root: Path, text: str, files: dict[str, str]) -> Any:
    write(root, {"caller_module.py": text, **files})
    importlib.invalidate_caches()
    return load("caller_module").function


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tmp_path / "project"


@pytest.mark.parametrize(
    "text",
    [
        "import inner\ndef function():\n    return inner.VALUE\n",
        "from inner import value\ndef function():\n    return value()\n",
        "def function():\n    import inner\n    return inner.VALUE\n",
    ],
    ids=["module", "function", "lazily"],
)
def test_a_module_that_must_not_travel_is_refused(load: Load, project: Path, text: str) -> None:
    """However the function refers to it; the line that keeps it here is named."""
    files = {
        "inner.py": "VALUE = 7\ndef value():\n    return VALUE\n",
        ".dayflyignore": "\ninner.*\n",
    }
    function = _function_with(load, project, text, files)
    with pytest.raises(
        PayloadError, match=r"module inner \(.*inner.py\) cannot travel because line 2"
    ):
        payload.pack(function, (), {})


def test_code_that_can_do_without_a_module_travels_without_it(
    load: Load, project: Path, tmp_path: Path
) -> None:
    """As on a machine where it never was; a file of secrets is one of those."""
    text = (
        "def function():\n    try:\n        import credentials\n    except ImportError:\n        return 'none'\n"
        "    return credentials.KEY\n"
    )
    function = _function_with(load, project, text, {"credentials.py": "KEY = 'k'\n"})
    assert far.call(tmp_path, function) == "none"
    import_module = importlib.import_module("credentials")
    assert import_module.KEY == "k"
    assert far.call(tmp_path, function) == "none"


def test_a_secret_s_module_says_how_it_may_travel(load: Load, project: Path) -> None:
    """By the name of the file that would allow it, or better by secrets=."""
    text = "def function():\n    import credentials\n    return credentials.KEY\n"
    function = _function_with(load, project, text, {"credentials.py": "KEY = 'k'\n"})
    with pytest.raises(
        PayloadError, match=r"secrets=, or write !credentials.py into .*dayflyignore"
    ):
        payload.pack(function, (), {})
    write(project, {".dayflyignore": "!credentials.py\n"})
    assert "credentials" in dict(payload.pack(function, (), {}).code.modules)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"VALUE = 'caf\xe9'\n", "cannot be read"), (b"VALUE = = 7\n", "invalid syntax")],
    ids=["encoding", "syntax"],
)
def test_a_module_that_is_no_python_is_refused(
    load: Load, project: Path, content: bytes, why: str
) -> None:
    """It would be an empty one there, or fail after the machine is paid for."""
    function = _function_with(load, project, "def function():\n    import inner\n", {})
    (project / "inner.py").write_bytes(content)
    with pytest.raises(PayloadError, match=f"module inner .* cannot travel .*{why}"):
        payload.pack(function, (), {})


def test_a_compiled_module_is_refused(load: Load, project: Path) -> None:
    """Only source travels; the message says what to do with it."""
    text = "import inner\ndef function():\n    return inner.VALUE\n"
    function = _function_with(load, project, text, {"inner.py": "VALUE = 7\n"})
    sys.modules["inner"].__file__ = str(project / "inner.cpython-311-x86_64-linux-gnu.so")
    with pytest.raises(PayloadError, match=r"it is compiled, .* environment="):
        payload.pack(function, (), {})


def test_the_plan_tells_how_much_travels(load: Load, project: Path) -> None:
    """Modules with their sizes, the largest first, and what git does not know."""
    text = "import inner, other\ndef function(data):\n    return inner.VALUE + other.VALUE\n"
    files = {"inner.py": "VALUE = 7\n", "other.py": "VALUE = 1\n" + "#" * 2000}
    function = _function_with(load, project, text, {**files, ".gitignore": "inner.py\n"})
    code = payload.pack(function, (bytes(5_000_000),), {}).code
    assert [name for name, _ in code.modules] == ["other", "caller_module", "inner"]
    assert code.modules[0][1] == 2010
    assert code.ignored_by_git == ("inner",)
    assert 5_000_000 <= code.arguments_bytes < 5_100_000
    assert 0 < code.bytes < 100_000
    told = str(code)
    assert "3 modules of the project (the largest is other, 2.0 KB)" in told
    assert "arguments 5.0 MB; in .gitignore all the same: inner" in told
    assert str(payload.pack(int, (3,), {}).code).startswith("the function alone, ")
