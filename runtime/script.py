"""Makes a script callable from elsewhere: a function that runs it as `__main__`, and that travels by value."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

from dayfly.errors import SpecError

_PLACE = "the code of the script"


def script_function(path: Path) -> Callable[[Sequence[str]], None]:
    """A function of one argument, the script's arguments, that runs the script as `__main__`.

    The script's own code stands in it as a constant and both name the script's file, so that the modules of its
    project are found and travel along, exactly as with a function that stands there.

    Raises:
        SpecError: there is no such file, or it is not Python.
    """
    text = source_of(path)
    try:
        code = compile(text, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise SpecError(f"{path}, line {error.lineno}: {error.msg}") from error
    template = _run_as_main.__code__
    constants = tuple(code if constant == _PLACE else constant for constant in template.co_consts)
    made = template.replace(
        co_consts=constants,
        co_filename=str(path),
        co_name=path.name,
        co_qualname=path.name,
        # Behind the end of the file, so that a traceback quotes no line of the script for this frame.
        co_firstlineno=text.count("\n") + 2,
    )
    return FunctionType(made, {"__name__": "__main__", "__builtins__": builtins}, path.name)


def source_of(path: Path) -> str:
    """The text of a script.

    Raises:
        SpecError: it cannot be read.
    """
    try:
        return path.read_text()
    except FileNotFoundError as error:
        raise SpecError(f"no script {str(path)!r} here; a function is MODULE:FUNCTION") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}") from error


def uses_cluster(text: str) -> bool:
    """Whether a script itself uses `cluster`, and so decides by itself what runs elsewhere."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False
    modules, names = {"dayfly"}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {a.asname for a in node.names if a.name == "dayfly" and a.asname}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "dayfly":
            names |= {a.asname or a.name for a in node.names if a.name == "cluster"}
    return any(_is_cluster(node, modules, names) for node in ast.walk(tree))


def _is_cluster(node: ast.AST, modules: set[str], names: set[str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in names
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "cluster"
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
    )


def _run_as_main(arguments: Any) -> None:
    # Only what this function holds itself travels: it knows no name of this file.
    import sys
    import types

    code: Any = "the code of the script"
    main = types.ModuleType("__main__")
    main.__file__ = code.co_filename
    sys.modules["__main__"] = main
    sys.argv = [code.co_filename, *arguments]
    exec(code, vars(main))  # noqa: S102  # this is what running a script is
