"""Machine: what a stack exports and a session needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Machine:
    """One reachable machine.

    Attributes:
        id: the provider's own id of the instance.
        host: address to connect to.
        port: port of its SSH server.
        user: login name.
        host_key: the pinned public host key, "ssh-ed25519 AAAA...".
        provider: name of the provider's file, e.g. "local".
        region: where it stands, in the provider's words.
        instance_type: what it is, in the provider's words.
        cache_dir: folder on the machine for what outlives a job (agent, uv, environments); "~" is the login's home.
        usd_per_hour: the rate frozen at launch.
        host_key_bootstrap: True where the pinned key came with the machine's user_data: until that has been applied the
            machine shows its image's own key, and the pinned one is replaced at the first login.
        host_key_offered: the key that is replacing a bootstrap key, "" at any other time: either may be shown.
        node: which machine of its stack it is; the first is 0.
        via: the host's name for this computer's `ssh`, whose configuration has the jump or the proxy that leads there; "" where
            `host` is reached directly.
        inner_host: address at which the other machines of its stack reach it, and nobody outside does; "" for none.
    """

    id: str
    host: str
    port: int
    user: str
    host_key: str
    provider: str
    region: str
    instance_type: str
    cache_dir: str = "~/.cache/dayfly"
    usd_per_hour: float = 0.0
    host_key_bootstrap: bool = False
    host_key_offered: str = ""
    node: int = 0
    inner_host: str = ""
    via: str = ""

    @property
    def host_keys(self) -> tuple[str, ...]:
        """The keys that it may show, as type and base64: one, or two while a bootstrap key is being replaced."""
        keys = (self.host_key, self.host_key_offered)
        return tuple(" ".join(key.split()[:2]) for key in keys if key)

    @classmethod
    def from_outputs(cls, outputs: Mapping[str, Any]) -> Machine:
        """From a stack's outputs; what they hold besides a Machine's fields is left alone.

        Raises:
            ValueError: an output is missing or has the wrong type; names it.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            if field.name not in outputs:
                if field.default is not MISSING:
                    continue
                raise ValueError(f"the stack exports no {field.name!r}; it has {sorted(outputs)}")
            values[field.name] = outputs[field.name]
        # The engine hands every number over as a float.
        values["port"], values["node"] = int(values["port"]), int(values.get("node", 0))
        return cls(**values)
