"""DaskCluster: what the machines of one run have to know to be one Dask cluster, and nobody else may."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dayfly.errors import RunFailed
from dayfly.infra.spec import Spec
from dayfly.runtime import carried_dask, payload, redact
from dayfly.runtime.cargo import with_needed
from dayfly.runtime.ssh import bootstrap

if TYPE_CHECKING:
    from dayfly.runtime.call import Call
    from dayfly.runtime.mesh import Mesh
    from dayfly.runtime.payload import Payload
    from dayfly.runtime.session import Session

# The second draws the dashboard.
REQUIREMENTS = ("distributed", "bokeh")
# Of each machine, for a worker whose own port somebody has taken while the environment was made.
_SPARE_PORTS = 2


class DaskCluster:
    """A scheduler on the first machine of a run and workers on each, all of which listen on loopback only.

    Each has a port that no other has on any of the machines, and under which it is reached from all of them, by a Mesh.
    Every connection of it is encrypted, and both of its ends have to show the run's own key: a loopback is reached by all
    users of its machine.

    Lifecycle: constructing makes a key; `meet` is for whoever has a session with the machines; the first call starts it.

    Args:
        function: what will be called.
        spec: what is asked for.
        slots: calls at once on each machine; 0 for as many as it has cores.
        by: "cores", or "gpu" for one on each GPU.
        grace_s: between asking a call to end and ending it.

    Attributes:
        slots: calls at once on all of them, once they have met.
        secrets: what the machines get over pipes only.
        mesh: the ways between the machines, once they have met.
    """

    def __init__(
        self, function: Callable[..., Any], spec: Spec, slots: int, by: str, grace_s: float
    ) -> None:
        self._function, self._slots = function, slots
        self._first: Payload | None = None
        self._settings: Mapping[str, Any] = {}
        self.slots = 0
        certificate, key = _own_key(timedelta(seconds=spec.max_runtime_s))
        self.secrets = {carried_dask.KEY_VARIABLE: key}
        redact.remember(self.secrets.values())
        self._known: dict[str, Any] = {
            "by": by,
            "certificate": certificate,
            "grace_s": grace_s,
            "agent": bootstrap.agent_digest(),
        }
        self.mesh: Mesh | None = None

    def joined(self, call: Call, settings: Mapping[str, Any]) -> Call:
        """The call of a warm run whose first machine hands its calls to this cluster."""
        self._first, self._settings = call.payload, settings
        return dataclasses.replace(
            call,
            recipe=with_needed(call.recipe, REQUIREMENTS, "its map"),
            serving=self,
        )

    def meet(self, session: Session) -> None:
        """Chooses where everybody listens, and has the machines reach each other there.

        Raises:
            ConnectFailed: an SSH server forbids that; says what to set there.
            RunFailed: there were not enough free ports, or a machine has no GPU where each call is to have one.
        """
        from dayfly.runtime.mesh import Mesh

        every = (session, *session.others)
        slots = [self._slots_of(each) for each in every]
        self.slots = sum(slots)
        self.mesh = mesh = Mesh(every)
        # For this computer alone: the other machines' users have no business there.
        (dashboard,) = mesh.free(1)
        own, *more = (count + _SPARE_PORTS for count in slots)
        (scheduler, *first), *others = mesh.open([own + 1, *more])
        self._known |= {
            "slots": slots,
            "devices": [each.facts.devices for each in every],
            "scheduler": f"tls://{carried_dask.HOST}:{scheduler}",
            "port": scheduler,
            "ports": [first, *others],
            "content": f"{session.machine.cache_dir}/blobs",
            "dashboard": dashboard,
        }

    def _slots_of(self, session: Session) -> int:
        """By what the machine has: it may be of another offer than the first of the ladder."""
        if self._known["by"] != "gpu":
            return self._slots or session.facts.cores
        if not session.facts.devices:
            raise RunFailed(f"slots='gpu': nvidia-smi lists no GPU on {session.machine.id}")
        return len(session.facts.devices)

    @property
    def dashboard(self) -> int:
        """Port of the first machine's loopback."""
        return int(self._known["dashboard"])

    def task_of(self, node: int) -> Payload:
        """What a machine runs; the first one hands the calls on."""
        if not node:
            assert self._first is not None
            # One process for each call that is under way, which does nothing but wait for it.
            more = {"slots": self.slots, "by": "cores", "isolation": "process"}
            return payload.with_settings(self._first, {**self._settings, **more})
        return payload.pack_own(self._function, carried_dask.work, self._known, node)

    @cached_property
    def relay(self) -> Payload:
        """What the first machine calls in the place of every function: its processes stay whatever is called."""
        needs = frozenset({"distributed"})
        return payload.pack_relay(self._function, needs, carried_dask.relayed, self._known)


def _own_key(lifetime: timedelta) -> tuple[str, str]:
    """A certificate that vouches for itself alone, and its key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dayfly run")])
    # Clocks differ.
    since, slack = datetime.now(UTC), timedelta(days=1)
    uses = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since - slack)
        .not_valid_after(since + lifetime + slack)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=True, **uses), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return certificate.public_bytes(form.Encoding.PEM).decode(), private.decode()
