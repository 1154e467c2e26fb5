"""Which modules a piece of code imports, read from its bytecode or its source without running it."""

from __future__ import annotations

import ast
import dis
import functools
import linecache
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import resolve_name
from types import CodeType


@dataclass(frozen=True)
class Import:
    """One import statement.

    Attributes:
        module: the absolute name of the module.
        names: what is taken from it with `from`; may be submodules.
        required: False in a `try` block, under `with suppress(...)` or `if TYPE_CHECKING`: the code can do without it.
    """

    module: str
    names: tuple[str, ...]
    required: bool


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """A code object and every one nested in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_in(constant)


def names_in(code: CodeType) -> frozenset[str]:
    """Every name and attribute that the code mentions, in strings too (`getattr(module, "name")`)."""
    names: set[str] = set()
    for part in codes_in(code):
        names.update(part.co_names)
        names.update(x for x in part.co_consts if isinstance(x, str) and x.isidentifier())
    return frozenset(names)


def of_code(code: CodeType, package: str) -> Iterator[Import]:
    """The import statements of a function, nested functions included.

    Args:
        code: the function's code.
        package: `__package__` of its module, for relative imports.
    """
    optional = _optional_lines("".join(linecache.getlines(code.co_filename)))
    for part in codes_in(code):
        instructions = [i for i in dis.get_instructions(part) if i.opname != "EXTENDED_ARG"]
        for index, instruction in enumerate(instructions):
            if instruction.opname != "IMPORT_NAME":
                continue
            # The compiler always loads the level and the names right before it.
            level, names = (instructions[index - 2].argval, instructions[index - 1].argval)
            line = instruction.positions.lineno if instruction.positions else None
            yield from _made(instruction.argval, level, names, package, line not in optional)


def of_source(text: str, package: str) -> Iterator[Import]:
    """The import statements of a whole source file."""
    optional = _optional_lines(text)
    for node in ast.walk(ast.parse(text)):
        required = getattr(node, "lineno", None) not in optional
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _made(alias.name, 0, (), package, required)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            yield from _made(node.module or "", node.level, names, package, required)


def names_in_source(text: str) -> frozenset[str]:
    """Every name and attribute that a source file mentions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.name for alias in node.names)
    return frozenset(names)


def _made(
    name: str, level: int, names: tuple[str, ...] | None, package: str, required: bool
) -> Iterator[Import]:
    if level:
        try:
            name = resolve_name("." * level + name, package)
        except ImportError:
            return  # Relative to nothing: it fails here as it will there.
    yield Import(name, tuple(names or ()), required)


@functools.lru_cache(maxsize=64)
def _optional_lines(text: str) -> frozenset[int]:
    """Lines of the import statements that the code can do without."""
    lines: set[int] = set()
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return frozenset()  # A cell with magics, or a file changed since: every import counts.
    for node in ast.walk(tree):
        if isinstance(node, ast.Try | ast.TryStar):
            guarded: list[ast.stmt] = [*node.body, *(s for h in node.handlers for s in h.body)]
        elif (isinstance(node, ast.If) and _mentions(node.test, "TYPE_CHECKING")) or (
            isinstance(node, ast.With)
            and any(_mentions(item.context_expr, "suppress") for item in node.items)
        ):
            guarded = node.body
        else:
            continue
        imports = (n for statement in guarded for n in ast.walk(statement))
        lines.update(n.lineno for n in imports if isinstance(n, ast.Import | ast.ImportFrom))
    return frozenset(lines)


def _mentions(node: ast.expr, name: str) -> bool:
    return any(
        (isinstance(part, ast.Name) and part.id == name)
        or (isinstance(part, ast.Attribute) and part.attr == name)
        for part in ast.walk(node)
    )
