"""What is in order on this computer and what is not, each failure with its fix; and where every setting comes from."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dayfly.errors import ConfigurationError, DayflyError
from dayfly.infra import providers
from dayfly.infra.home import home_path
from dayfly.infra.spec import Spec
from dayfly.infra.units import human_bytes
from dayfly.runtime.redact import redact
from dayfly.stacks import engine, plugins, settings
from dayfly.stacks.budget import Budget
from dayfly.stacks.policies import Policies
from dayfly.stacks.settings import OWN, SPEC_FIELDS, Settings
from dayfly.stacks.workspace import Workspace

_LITTLE_DISK_BYTES = 1 << 30
_LEAST_PYTHON = (3, 11)
Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        level: "ok"; "warn": worth knowing; "fail": runs that need it cannot work.
        detail: what was found.
        fix: what to do, "" where nothing is wrong.
    """

    name: str
    level: Level
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Report:
    """All checks, and every setting as (name, value, origin)."""

    checks: tuple[Check, ...]
    settings: tuple[tuple[str, Any, str], ...]

    @property
    def healthy(self) -> bool:
        """True where nothing that is needed is broken."""
        return all(check.level != "fail" for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "ok": self.healthy,
            "checks": [dataclasses.asdict(check) for check in self.checks],
            "settings": [
                {"name": name, "value": value, "origin": origin}
                for name, value, origin in self.settings
            ],
        }


def examine() -> Report:
    """Looks at everything; changes nothing but the folders that any command would make, and never raises."""
    found, checks = Settings({}), []
    try:
        found = settings.load()
    except ConfigurationError as error:
        checks.append(Check("settings", "fail", str(error), "correct that file"))
    wanted = _wanted_providers(found)
    looks: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("python", _python),
        ("dayfly", _dayfly),
        ("engine", _engine),
        ("plugins", partial(_plugins, wanted)),
        ("uv", _uv),
        ("ssh", _ssh),
        ("sshd", partial(_sshd, "local" in wanted)),
        ("home", partial(_workspace, found)),
        ("budgets", partial(_budgets, found)),
        ("policies", partial(_policies, found)),
    ]
    looks += [(f"provider {n}", partial(_provider, n, n in wanted)) for n in providers.names()]
    looks.append(("host", partial(_host, found.get("host", None), wanted)))
    for name, look in looks:
        checks += _safely(name, look)
    return Report(tuple(checks), tuple(_origins(found)))


def _safely(name: str, look: Callable[[], Iterator[Check]]) -> Sequence[Check]:
    """A check that fails by itself is a finding, not the end of the examination."""
    try:
        return list(look())
    except (DayflyError, OSError, ImportError) as error:
        return [Check(name, "fail", str(error), "see the message")]


def _wanted_providers(found: Settings) -> tuple[str, ...]:
    value = found.get("provider", Spec.provider)
    return (value,) if isinstance(value, str) else tuple(value)


def _python() -> Iterator[Check]:
    version = platform.python_version()
    if sys.version_info < _LEAST_PYTHON:
        yield Check("python", "fail", version, "use Python 3.11 or newer")
    else:
        yield Check("python", "ok", f"{version}  {sys.executable}")


def _dayfly() -> Iterator[Check]:
    from importlib.metadata import version

    import dayfly

    yield Check("dayfly", "ok", f"{version('dayfly')}  {Path(str(dayfly.__file__)).parent}")


def _engine() -> Iterator[Check]:
    search = engine.search()
    if search.engine is None:
        fix = "dayfly engine install (the first run does it too)"
        yield Check("engine", "fail", "; ".join(search.refused), fix)
        return
    found = search.engine
    yield Check("engine", "ok", f"pulumi {found.version}  {found.path}  ({found.origin})")


def _plugins(wanted: Sequence[str]) -> Iterator[Check]:
    """Those of providers that are not set up are no finding."""
    for state in plugins.states(engine.find()):
        name = f"plugin {state.provider}"
        if state.place is not None:
            yield Check(name, "ok", str(state))
        elif state.provider in wanted or (state.plugin and _is_configured(state.provider)):
            fix = f"{state.lacking} (the first run does it too)"
            yield Check(name, "warn", "not there yet", fix)


def _is_configured(provider: str) -> bool:
    return providers.load(provider).is_configured()


def _uv() -> Iterator[Check]:
    import uv

    try:
        yield Check("uv", "ok", str(uv.find_uv_bin()))
    except FileNotFoundError as error:
        yield Check(
            "uv", "fail", str(error), f"{sys.executable} -m pip install --force-reinstall uv"
        )


def _ssh() -> Iterator[Check]:
    found = shutil.which("ssh")
    if found:
        yield Check("ssh", "ok", found)
    else:
        fix = "install OpenSSH's client; only `dayfly ssh` needs it"
        yield Check("ssh", "warn", "not on PATH", fix)


def _sshd(needed: bool) -> Iterator[Check]:
    from dayfly.infra import sshd

    try:
        yield Check("sshd", "ok", sshd.path())
    except ConfigurationError as error:
        detail, _, fix = str(error).partition(": ")
        yield Check("sshd", "fail" if needed else "warn", detail, fix)


def _workspace(found: Settings) -> Iterator[Check]:
    try:
        workspace = Workspace.open(found)
    except ConfigurationError as error:
        yield Check("home", "fail", str(home_path()), str(error))
        return
    mode = workspace.home.stat().st_mode & 0o777
    yield Check("home", "ok", f"{workspace.home}  (mode {mode:o}, yours)")
    free = shutil.disk_usage(workspace.home).free
    little = free < _LITTLE_DISK_BYTES
    fix = "free some space, or set DAYFLY_HOME to another disk" if little else ""
    yield Check("disk", "warn" if little else "ok", f"{human_bytes(free)} free", fix)
    alone = "" if workspace.is_remote else "  (runs are attached on this computer only)"
    yield Check("backend", "ok", f"{redact(workspace.backend)}{alone}")
    yield _passphrase(workspace)
    yield Check("owner", "ok", workspace.owner)


def _passphrase(workspace: Workspace) -> Check:
    if workspace.secrets_provider != "passphrase":
        return Check("passphrase", "ok", f"not used: {redact(workspace.secrets_provider)}")
    file = workspace.home / "passphrase"
    if not file.exists():
        return Check("passphrase", "ok", "not made yet: the first run makes it")
    if not file.read_text().strip():
        fix = f"put the old one back, or, if no run is open (dayfly ps), delete {file}"
        return Check("passphrase", "fail", f"{file} is empty and protects nothing", fix)
    if file.stat().st_mode & 0o077:
        return Check("passphrase", "fail", "others can read it", f"chmod 600 {file}")
    return Check("passphrase", "ok", f"{file}  (yours alone)")


def _provider(name: str, wanted: bool) -> Iterator[Check]:
    missing = providers.load(name).preflight()
    for problem in missing:
        yield Check(f"provider {name}", "fail" if wanted else "warn", "not ready", problem)
    if not missing:
        yield Check(f"provider {name}", "ok", "ready")


def _host(host: str | None, wanted: Sequence[str]) -> Iterator[Check]:
    """The machine of the user's own that is set, if one is: asked as a run would ask it."""
    takers = [name for name in providers.names() if "host" in providers.load(name).takes]
    for name in takers if host else ():
        try:
            offer, *_ = providers.load(name).offers(Spec(provider=name, host=host))
        except DayflyError as error:
            level: Level = "fail" if name in wanted else "warn"
            yield Check("host", level, f"{host} cannot be used", str(error))
            continue
        gpus = f", {offer.gpus} x {offer.gpu_model}" if offer.gpus else ""
        size = f"{offer.cores} cores, {human_bytes(offer.memory_bytes)}{gpus}"
        yield Check("host", "ok", f"{host}  ({size})")


def _budgets(found: Settings) -> Iterator[Check]:
    for budget in Budget.all_of(found):
        name = budget.setting
        try:
            yield Check(name, "ok", f"${budget.usd:g} for all runs of this computer together")
        except ConfigurationError as error:
            yield Check(name, "fail", str(error), "correct it")


def _policies(found: Settings) -> Iterator[Check]:
    for each in Policies.of(found).every:
        yield Check("policy", "ok", str(each))


def _origins(found: Settings) -> Iterator[tuple[str, Any, str]]:
    defaults = {field.name: field.default for field in dataclasses.fields(Spec)}
    for name in (*SPEC_FIELDS, *OWN):
        setting = found.values.get(name)
        if setting is not None:
            yield name, _shown(setting.value), setting.origin
        else:
            yield name, _shown(defaults.get(name)), "default"
    for variable in ("DAYFLY_HOME", "DAYFLY_ENGINE_HOME", "DAYFLY_QUIET"):
        if os.environ.get(variable):
            yield variable, os.environ[variable], "environment variable"


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    return list(value) if isinstance(value, tuple) else value
