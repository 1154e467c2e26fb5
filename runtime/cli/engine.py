"""`dayfly engine`: the Pulumi CLI that runs every stack, and the environment to use it by hand."""

from __future__ import annotations

import os
import shlex
import sysconfig
from collections.abc import Sequence

import click

from dayfly.runtime.cli.common import with_json

_EXPORTED = (
    "PATH",
    "PULUMI_BACKEND_URL",
    "PULUMI_CONFIG_PASSPHRASE_FILE",
    "PULUMI_HOME",
    "PULUMI_SKIP_UPDATE_CHECK",
    "PULUMI_PYTHON_CMD",
    "PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS",
)


@click.group()
def engine() -> None:
    """The Pulumi CLI that runs every stack."""


@engine.command()
@with_json
def status(json: bool) -> None:
    """Show which Pulumi CLI and which vendors' plugins are used, and where from; exit code 69 where there is no CLI."""
    from dayfly.errors import EngineMissing
    from dayfly.runtime.cli.output import emit_json, tell
    from dayfly.stacks import engine, plugins

    search = engine.search()
    there = list(plugins.states(search.engine))
    if json:
        emit_json({**engine.as_json(search.engine), "plugins": [each.as_dict() for each in there]})
    elif search.engine:
        print(f"{search.engine.path}  {search.engine.version}  ({search.engine.origin})")
        for each in there:
            print(each)
    if search.engine is None:
        tell(
            "\n".join(["dayfly: no Pulumi CLI; `dayfly engine install` gets one", *search.refused])
        )
        raise click.exceptions.Exit(EngineMissing.exit_code)


@engine.command()
@click.option(
    "--plugin",
    "providers",
    metavar="PROVIDER",
    multiple=True,
    help="Also the plugin of this provider's vendor; may be repeated.",
)
@click.option("--server", metavar="URL", help="A mirror of Pulumi's releases of plugins.")
def install(providers: Sequence[str], server: str | None) -> None:
    """Get a Pulumi CLI: found, else installed by Pulumi's own installer, else built.

    A vendor's plugin comes in the version that its SDK names, by the CLI's own `plugin install`; the first run that needs it
    gets it, too.
    """
    from dayfly.runtime.cli.output import tell
    from dayfly.stacks import engine, plugin_install, plugins

    wanted = [plugins.named(name, server) for name in providers]
    found = engine.ensure(tell)
    print(f"{found.path}  {found.version}  ({found.origin})")
    for each in wanted:
        place = plugin_install.ensure(each, found, tell)
        print(f"{place.where}  {each.version}  ({place.origin})")


@engine.command()
def env() -> None:
    """Print `export` lines for the plain pulumi CLI: eval "$(dayfly engine env)"."""
    from dayfly.infra.ingress import PRIVATE_VARIABLE
    from dayfly.runtime.context import Context

    context = Context.open()
    engine = context.engine()
    variables = context.workspace.environment(engine, "")
    variables["PATH"] = search_path(str(engine.bin_dir))
    for name in (*_EXPORTED, *(name for name in (PRIVATE_VARIABLE,) if name in variables)):
        print(f"export {name}={shlex.quote(variables[name])}")


def search_path(engine_folder: str) -> str:
    """PATH with this environment's programs and the Pulumi CLI first, each folder once however often it is asked."""
    first = [sysconfig.get_path("scripts"), engine_folder]
    rest = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([*first, *rest]))
