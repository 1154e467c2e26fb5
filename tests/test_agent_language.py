"""The agent's files stay Python 3.8, also on a computer that has none to try them with."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from dayfly.runtime import agent

FILES = sorted(Path(agent.__file__).parent.glob("*.py"))
# What came after 3.8, by the name under which it is called, given or imported; the agent needs none of it.
_MODULES = {"_sha2", "annotationlib", "compression", "graphlib", "tomllib", "zoneinfo"}
_NAMES = {
    *("add_note", "batched", "bit_count", "eventfd", "file_digest", "functools.cache"),
    *("hardlink_to", "is_relative_to", "nextafter", "orig_argv", "pairwise", "pidfd_open"),
    *("pidfd_send_signal", "process_cpu_count", "randbytes", "recv_fds", "removeprefix"),
    *("removesuffix", "send_fds", "setns", "splice", "stdlib_module_names", "sys.exception"),
    *("to_thread", "unshare", "UTC", "waitstatus_to_exitcode"),
}
_KEYWORDS = {
    *("cancel_futures", "delete_on_close", "extra_groups", "group", "kw_only", "missing_ok"),
    *("onexc", "pipesize", "process_group", "slots", "strict", "umask", "user", "usedforsecurity"),
}
# The one file that is run by the environment's Python alone, where fsspec is what reads and writes a bucket.
_OF_THE_ENVIRONMENT = {"bucket": ["module fsspec.core"]}
_TYPES = {"bytes", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple", "type"}


def later_than_38(text: str) -> Iterator[str]:
    """Each thing in a module's text that Python 3.8 does not know.

    Raises:
        SyntaxError: it cannot even read it.
    """
    tree = ast.parse(text, feature_version=(3, 8))
    if not _has_lazy_annotations(tree):
        yield from (
            f"annotation {ast.unparse(each)}" for each in _annotations(tree) if _is_type(each)
        )
    for node in _run(tree):
        yield from _of_node(node)


def _has_lazy_annotations(tree: ast.Module) -> bool:
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return any(
        node.module == "__future__" and any(each.name == "annotations" for each in node.names)
        for node in imports
    )


def _annotations(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            yield node.returns
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield node.annotation


def _is_type(node: ast.expr) -> bool:
    """Whether it is one that only a later Python can make."""
    return any(isinstance(each, ast.Subscript | ast.BinOp) for each in ast.walk(node))


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """What is run there: neither annotations, nor what only a type checker or a later Python reads."""
    unrun: set[int] = set()
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        unrun = {id(node.returns)}
    elif isinstance(node, ast.arg | ast.AnnAssign):
        unrun = {id(node.annotation)}
    elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    elif isinstance(node, ast.If) and _is_of_a_later_python(node.test):
        unrun = {id(each) for each in node.body}
    yield node
    for each in ast.iter_child_nodes(node):
        if id(each) not in unrun:
            yield from _run(each)


def _is_of_a_later_python(test: ast.expr) -> bool:
    """Whether a condition begins with `sys.version_info >= (3, 9)`, or a later one: 3.8 never goes there."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        test = test.values[0]
    if not (isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.GtE)):
        return False
    (least,) = test.comparators
    named = ast.unparse(test.left) == "sys.version_info" and isinstance(least, ast.Tuple)
    return named and ast.literal_eval(least) >= (3, 9)


def _of_node(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from _modules(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from _modules([node.module or ""] if not node.level else [])
        for alias in node.names:
            yield from _names(alias.name, f"{node.module}.{alias.name}")
    elif isinstance(node, ast.Attribute):
        yield from _names(node.attr, ast.unparse(node))
    elif isinstance(node, ast.keyword) and node.arg in _KEYWORDS:
        yield f"{node.arg}="
    elif _is_later_type(node):
        yield ast.unparse(node)


def _is_later_type(node: ast.AST) -> bool:
    """Whether a type is made here as only a later Python can: `list[int]`, `Queue[int]()`, `int | None`."""
    if isinstance(node, ast.Subscript):
        return _is_builtin_type(node.value)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Subscript)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _is_builtin_type(node.left) or _is_builtin_type(node.right)
    return False


def _names(name: str, whole: str) -> Iterator[str]:
    yield from {name, whole} & _NAMES


def _is_builtin_type(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in _TYPES


def _modules(names: Iterable[str]) -> Iterator[str]:
    known = (sys.stdlib_module_names | {"cloudpickle"}) - _MODULES
    yield from (f"module {name}" for name in names if name.split(".")[0] not in known)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_of_the_agent_is_python_3_8(file: Path) -> None:
    """In what is written, what is called, and what is imported: the standard library of that time, and each other."""
    assert list(later_than_38(file.read_text())) == _OF_THE_ENVIRONMENT.get(file.stem, [])


@pytest.mark.parametrize(
    "text",
    [
        "match x:\n    case 1: pass",
        "try: pass\nexcept* OSError: pass",
        "def f(x: list[int]): ...",
        "def f() -> int | None: ...",
        "x = list[int]()",
        "x = queue.SimpleQueue[int]()",
        "isinstance(x, int | str)",
        "'x'.removeprefix('x')",
        "zip(a, b, strict=True)",
        "Popen(a, process_group=0)",
        "from functools import cache",
        "import tomllib",
        "from numpy.random import seed",
        "if sys.version_info >= (3, 8): import tomllib",
        "if sys.version_info >= (3, 14) or x: import tomllib",
        "if sys.version_info >= (3, 14): pass\nelse: import tomllib",
        "if sys.version_info < (3, 14): import tomllib",
    ],
)
def test_what_is_later_is_seen(text: str) -> None:
    """Whether the parser refuses it, or only Python 3.8 itself would."""
    try:
        found = list(later_than_38(text))
    except SyntaxError:
        return
    assert found


def test_what_is_for_the_type_checker_may_be_later() -> None:
    """Nothing of it is run there."""
    text = (
        "from __future__ import annotations\nTYPE_CHECKING = False\n"
        "if TYPE_CHECKING:\n    import tomllib\n"
        "def f(x: list[int] | None) -> dict[str, int]:\n    y: set[int] = set()\n"
    )
    assert list(later_than_38(text)) == []


@pytest.mark.parametrize("more", ["", " and x"])
def test_what_is_for_a_later_python_may_be_later(more: str) -> None:
    """3.8 reads it, and does not run it."""
    text = f"if sys.version_info >= (3, 14){more}:\n    from compression import zstd\n"
    assert list(later_than_38(text)) == []
