"""What a command line names: a function with its arguments, and the Spec it runs under."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dayfly.errors import SpecError
from dayfly.infra.plan import Plan
from dayfly.infra.spec import Spec
from dayfly.infra.units import suggestion
from dayfly.runtime.cluster import RemoteFunction
from dayfly.runtime.script import script_function
from dayfly.stacks import settings
from dayfly.stacks.policies import Check


@dataclass(frozen=True)
class Target:
    """One call, as the command line asks for it; perhaps with a plan that it keeps to, and policies of its own."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    spec: Spec
    planned: Plan | None = None
    policies: tuple[Check, ...] = ()


def script_target(path: Path, arguments: Sequence[str], options: Mapping[str, Any]) -> Target:
    """A script as a function of its arguments.

    Raises:
        SpecError: it is not there, not Python, or the options cannot be.
    """
    function = script_function(settings.working_folder() / path)
    return Target(function, (list(arguments),), {}, spec_above_settings(options))


def function_target(name: str, arguments: Sequence[str], options: Mapping[str, Any]) -> Target:
    """A function of a module that is found from the current folder; options go above those of its decorator.

    Raises:
        SpecError: there is no such module or function, or the options cannot be.
    """
    found = _imported(name)
    args, kwargs = parsed_arguments(arguments)
    if not callable(found):
        raise SpecError(f"{name} is a {type(found).__name__}, not a function")
    if isinstance(found, RemoteFunction):
        remote = found.with_options(**options)
        return Target(
            remote.__dayfly_function__, args, kwargs, remote.spec, remote.planned, remote.policies
        )
    return Target(found, args, kwargs, spec_above_settings(options))


def parsed_arguments(texts: Sequence[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments as JSON where they parse, else as text; NAME=VALUE by keyword.

    Raises:
        SpecError: a keyword twice, or a positional argument behind one.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            if kwargs:
                raise SpecError(f"{text!r} stands behind a NAME=VALUE; put it before")
            args.append(_json_or_text(text))
        elif name in kwargs:
            raise SpecError(f"{name}= is given twice")
        else:
            kwargs[name] = _json_or_text(value)
    return tuple(args), kwargs


def spec_above_settings(options: Mapping[str, Any]) -> Spec:
    """The Spec of these options, above the settings of environment, project and user.

    Raises:
        SpecError: it cannot be.
    """
    return Spec.from_options({**settings.load().spec_options(), **options})


def as_environment(options: Mapping[str, Any]) -> dict[str, str]:
    """The options as the variables that a program's own functions take their defaults from.

    Raises:
        SpecError: a requirement with a comma, which separates requirements there.
    """
    variables = {}
    for name, value in options.items():
        several = isinstance(value, list)
        if several and any("," in str(item) for item in value):
            raise SpecError(f"{name}={value}: write it in a requirements file and name that")
        text = ",".join(value) if several else str(value)
        variables[f"DAYFLY_{name.upper()}"] = text.lower() if value in (True, False) else text
    return variables


def _near(wrong: str, holder: Any, module_name: str) -> str:
    own = [
        name
        for name, value in vars(holder).items()
        if callable(value)
        and not name.startswith("_")
        and getattr(value, "__module__", "") == module_name
    ]
    return suggestion(wrong, own) if own else "it has no function of its own"


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _imported(name: str) -> Any:
    module_name, _, path = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *path.split(".")]):
        raise SpecError(
            f"{name!r} is not MODULE:FUNCTION, with MODULE as in `import MODULE` from the folder that you are in"
        )
    here = str(settings.working_folder())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise SpecError(
            f"no module {error.name!r} here ({here}); MODULE is written as in `import MODULE`"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise SpecError(f"{name}: no {part!r} there; {_near(part, found, module_name)}")
        found = getattr(found, part)
    return found
