"""`dayfly completion`: the script by which a shell completes verbs and options."""

from __future__ import annotations

import click

# As click asks for it of a program of that name.
_VARIABLE = "_DAYFLY_COMPLETE"


@click.command()
@click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the script by which a shell completes verbs and options.

    \b
    In ~/.bashrc:                    eval "$(dayfly completion bash)"
    In ~/.zshrc, after `compinit`:   eval "$(dayfly completion zsh)"
    In ~/.config/fish/config.fish:   dayfly completion fish | source
    """
    from click.shell_completion import get_completion_class

    from dayfly.runtime.cli.app import dayfly

    found = get_completion_class(shell)
    assert found is not None, shell
    print(found(dayfly, {}, "dayfly", _VARIABLE).source())
