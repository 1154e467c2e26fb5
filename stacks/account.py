"""Account: where a run is paid for. Credentials of another one know nothing of its machines, and prove nothing."""

from __future__ import annotations

from dayfly.errors import ConfigurationError, DayflyError
from dayfly.infra import providers
from dayfly.stacks.journal import History


def check(history: History) -> None:
    """Has a provider asked about a run only with credentials of the account that the run is in.

    A run that was written down without an account, or on a machine that has none, may be asked about by anybody.

    Raises:
        ConfigurationError: these are of another one.
        DayflyError: nobody can tell whose they are.
    """
    launched_in = str(history.intent.get("place") or "")
    if not launched_in:
        return
    here = providers.load(history.provider).place()
    if here != launched_in:
        raise ConfigurationError(
            f"{history.provider} cannot be asked about run {history.id[:12]}: it is in account {launched_in}, and these"
            f" credentials are of {here or 'none'}; use those that it was launched with"
        )


def trouble(history: History) -> str:
    """Why nobody can be asked about a run with the credentials that are here, "" where somebody can."""
    try:
        check(history)
    except DayflyError as reason:
        return str(reason)
    return ""
