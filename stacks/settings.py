"""Settings in layers: argument, then environment, then the project's [tool.dayfly], then the user's file."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import platformdirs

from dayfly.errors import ConfigurationError
from dayfly.infra.spec import Spec
from dayfly.infra.units import suggestion

SPEC_FIELDS = tuple(field.name for field in dataclasses.fields(Spec))
BUDGETS = ("budget_per_day", "budget_per_month")
_POLICY = "policy"
OWN = ("backend", "owner", "secrets_provider", *BUDGETS)
_SPELLINGS = {"time": "max_runtime"}
_LISTS = ("provider", "environment", "secrets", "file_systems", "system_packages")
_NUMBERS = ("max_cost", "max_price", "min_gpu_utilization", *BUDGETS)
_NAMES = ("secrets", "file_systems", "system_packages")


Wrong = Callable[[str], None]


class Setting(NamedTuple):
    """One value and where it came from."""

    value: Any
    origin: str


class Settings(NamedTuple):
    """Every setting that something other than Dayfly itself has set.

    Attributes:
        values: each by its name, from the nearest layer that has it.
        policies: one table of policies for each layer that has one: no layer takes back what another one asks for.
    """

    values: Mapping[str, Setting]
    policies: tuple[Setting, ...] = ()

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a setting, or the default where no layer sets it."""
        found = self.values.get(name)
        return default if found is None else found.value

    def spec_options(self) -> dict[str, Any]:
        """The settings that are fields of a Spec."""
        return {name: found.value for name, found in self.values.items() if name in SPEC_FIELDS}


def refuse(text: str) -> NoReturn:
    """What is wrong in a layer stops whoever would spend money by it."""
    raise ConfigurationError(text)


def user_file() -> Path:
    """The user's own settings."""
    return platformdirs.user_config_path("dayfly") / "config.toml"


def working_folder() -> Path:
    """The folder that this process was started in.

    Raises:
        ConfigurationError: it was deleted since.
    """
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        named = os.environ.get("PWD", "the working folder")
        raise ConfigurationError(
            f"{named} was deleted while this shell or process was in it: cd to a folder that exists"
        ) from error


def project_file(start: Path, wrong: Wrong = refuse) -> Path | None:
    """The nearest pyproject.toml from `start` upwards that has a [tool.dayfly]."""
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        if file.is_file() and "dayfly" in _toml(file, wrong).get("tool", {}):
            return file
    return None


def load(start: Path | None = None, wrong: Wrong = refuse) -> Settings:
    """All layers below the arguments, the nearer one above the other; of a budget the smallest, whichever layer sets it.

    Args:
        start: the folder from which on a project is looked for; None is the working folder.
        wrong: told what is wrong in a layer, which is left out then.

    Raises:
        ConfigurationError: a file that is not TOML, or a name that no layer knows; unless `wrong` takes it.
    """
    layers, policies = [], []
    for table, origin in _tables((start or working_folder()).resolve(), wrong):
        layers.append(_checked({n: v for n, v in table.items() if n != _POLICY}, origin, wrong))
        if _POLICY in table:
            policies.append(Setting(table[_POLICY], origin))
    layers.append(_from_environment(wrong))
    values = {name: setting for layer in layers for name, setting in layer.items()}
    for name in BUDGETS:
        found = [layer[name] for layer in layers if name in layer]
        if found:
            # A project that somebody else has written must not raise what its user has set.
            values[name] = min(found, key=_limit)
    return Settings(values, tuple(policies))


def _tables(start: Path, wrong: Wrong) -> Iterator[tuple[dict[str, Any], str]]:
    """What the files say, the user's first, each with where that is."""
    user = user_file()
    if user.is_file():
        yield _toml(user, wrong), str(user)
    project = project_file(start, wrong)
    if project is not None:
        yield _toml(project, wrong)["tool"]["dayfly"], f"{project} [tool.dayfly]"


def _limit(budget: Setting) -> float:
    """What is no number comes first, so that it is seen."""
    return float(budget.value) if isinstance(budget.value, int | float) else -1.0


def _toml(file: Path, wrong: Wrong) -> dict[str, Any]:
    import tomllib  # where there is a file, which a short command need not wait for elsewhere

    try:
        return tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        wrong(f"{file} cannot be read as TOML: {error}")
        return {}


def _checked(table: Mapping[str, Any], origin: str, wrong: Wrong) -> dict[str, Setting]:
    known = {*SPEC_FIELDS, *OWN, *_SPELLINGS, _POLICY}
    for name in table.keys() - known:
        wrong(f"{origin}: unknown setting {name!r}; {suggestion(name, known)}")
    found = {name: Setting(value, origin) for name, value in table.items() if name in known}
    return _spelled(found, wrong)


def _spelled(found: Mapping[str, Setting], wrong: Wrong) -> dict[str, Setting]:
    """One layer's settings under the names of the Spec's fields."""
    for spelling, name in _SPELLINGS.items():
        if spelling in found and name in found:
            wrong(
                f"{found[spelling].origin} and {found[name].origin}: {spelling} and {name} are two spellings of one"
                " setting; keep one of them"
            )
    return {_SPELLINGS.get(name, name): setting for name, setting in found.items()}


def _from_environment(wrong: Wrong) -> dict[str, Setting]:
    found = {}
    for name in (*SPEC_FIELDS, *OWN, *_SPELLINGS):
        variable = f"DAYFLY_{name.upper()}"
        if os.environ.get(variable):
            found[name] = Setting(
                _typed(name, os.environ[variable]), f"environment variable {variable}"
            )
    return _spelled(found, wrong)


def _typed(name: str, text: str) -> Any:
    """A text as the type of its field; what does not fit stays a text, which the Spec refuses by name."""
    if name in _LISTS:
        # A comma in brackets is one of extras.
        parts = [part.strip() for part in re.split(r",(?![^\[\]]*\])", text) if part.strip()]
        return parts[0] if len(parts) == 1 and name not in _NAMES else parts
    if name in ("cores", "nodes", "retries", "max_machines") and text.isdigit():
        return int(text)
    if name in _NUMBERS:
        try:
            return float(text)
        except ValueError:
            return text
    if name in ("wait_for_teardown", "spot"):
        return {"1": True, "true": True, "0": False, "false": False}.get(text.lower(), text)
    return text


def from_texts(texts: Mapping[str, str]) -> dict[str, Any]:
    """Spec options from texts, as stack configuration and the command line give them."""
    return {name: _typed(name, text) for name, text in texts.items()}
