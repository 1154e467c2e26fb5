"""What the user's `ssh` has of the environment, wherever it is started: by a plan, the engine, the keeper or a session.

The engine gets no variable of this process that it does not need, and nobody may see a host in a plan that the run then cannot
reach.
"""

from __future__ import annotations

import os

from dayfly.infra import always

# Beside home, user, language, folder for temporary files, proxies and certificates, which everything has.
NAMES = (
    # Where the agents of the user's keys listen, hardware keys' library, and Kerberos' tickets are.
    "SSH_AUTH_SOCK",
    "SSH_SK_PROVIDER",
    "GNUPGHOME",
    "KRB5CCNAME",
    "KRB5_CONFIG",
    # What runs a ProxyCommand and a `Match exec`, and where their programs have their settings.
    "SHELL",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AZURE_CONFIG_DIR",
    "CLOUDSDK_CONFIG",
    "CLOUDSDK_ACTIVE_CONFIG_NAME",
    "KUBECONFIG",
    "TELEPORT_HOME",
    "TELEPORT_PROXY",
    "VAULT_ADDR",
)
_PROGRAMS = ("PATH", "LD_LIBRARY_PATH")


def of_ssh() -> dict[str, str]:
    """The variables for one `ssh`; it asks nobody anything."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in NAMES or name in _PROGRAMS or always.is_for_all(name)
    }
    return kept | {"SSH_ASKPASS_REQUIRE": "never"}
