"""The one contract of all providers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from dayfly.infra.found import Found, State
from dayfly.infra.ingress import OWN_ADDRESS
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec

if TYPE_CHECKING:
    from dayfly.infra.dynamic import DynamicProvider

FailureKind = Literal["capacity", "quota", "auth", "rate_limit", "invalid", "transient", "unknown"]


class Limits(NamedTuple):
    """What a proof of absence and a bill have to know of a provider.

    Attributes:
        listing_lag_s: a listing may miss for so long what exists.
        late_create_s: a launch whose answer was lost may still appear for so long.
        billing_increment_s: a bill is rounded up to this.
        if_this_computer_dies: one sentence on what the machine's own deadline can do.
        console: where a person can look.
        deadline_action: what the machine's own deadline does: "end_processes" of the run, or also "poweroff" where the
            provider then ends the machine, and its bill.
        billing_minimum_s: a machine that was there at all is billed for so long at least.
    """

    listing_lag_s: float
    late_create_s: float
    billing_increment_s: float
    if_this_computer_dies: str
    console: str
    deadline_action: Literal["end_processes", "poweroff"] = "end_processes"
    billing_minimum_s: float = 0.0


class Provider(ABC):
    """One way to get machines. A subclass declares only where it differs.

    Instances hold no state: `PROVIDER` of each file is made when the file is imported.

    Attributes:
        environment: names of the variables that its resources, and a teardown, may see.
        credentials: those of them that hold a credential itself, and not the place where one is kept.
        pythons: minors, "3.10", that each of its machines has from the beginning; others are fetched there.
        takes: fields of a Spec that not every provider knows, and this one does: "spot", "image", "host", "file_systems".
        free: types of its resources, as the engine writes them, that cost nothing beside the machine's own rate.
        up_timeout_s: for so long the engine may take to bring a stack up; then it is interrupted, and what there is is destroyed.
    """

    name: ClassVar[str]
    environment: ClassVar[tuple[str, ...]] = ()
    credentials: ClassVar[tuple[str, ...]] = ()
    same_computer: ClassVar[bool] = False
    pythons: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[frozenset[str]] = frozenset()
    free: ClassVar[frozenset[str]] = frozenset()
    up_timeout_s: ClassVar[float] = 3600.0
    # True where every creating request is fenced (`fence`) and on record (`creations`): then no record is a proof.
    keeps_creations: ClassVar[bool] = False

    @property
    @abstractmethod
    def limits(self) -> Limits:
        """What a proof of absence and a bill have to know; a constant in most files."""

    @abstractmethod
    def offers(self, spec: Spec) -> Sequence[Offer]:
        """Priced candidates, cheapest first.

        Raises:
            SpecError: nothing that this provider has can satisfy the Spec; names the nearest that fits.
        """

    def check_host(self, spec: Spec) -> None:  # noqa: B027  # most go to none
        """Refuses, where this provider takes a host, a Spec that can never be for one, whatever its machine has.

        Raises:
            SpecError: it is such a Spec; also on a ladder.
        """

    def price_list(self) -> Sequence[Offer]:
        """All that can be had here at a price, for people to choose from: live where credentials are there, else the catalog's.

        Raises:
            DayflyError: credentials are there, and the provider cannot be asked.
        """
        # The engine, which loads a provider for each of its resources, has no use for it.
        from dayfly.infra import catalog

        return catalog.price_list(self.name)

    def catalog_offers(self, spec: Spec) -> Sequence[Offer]:
        """As `offers`, from what the package itself knows: no request, and no look for credentials.

        Raises:
            SpecError: nothing that this provider has can satisfy the Spec; names the nearest that fits.
        """
        return self.offers(spec)

    def place(self) -> str:
        """The account that the credentials of this process are of, in the provider's own word: an id of an account, a
        subscription, a project; "" where there is none, or one cannot be told from another.

        Asked for a run, and cached; never for a plan.

        Raises:
            DayflyError: there are no credentials, or nobody can be asked.
        """
        return ""

    def ingress(self, spec: Spec) -> Sequence[str]:
        """Networks that may reach port 22 of a machine, as its firewall will be set; none where nothing is opened."""
        if self.same_computer or "host" in self.takes:
            return ()
        return (spec.allow_cidr or OWN_ADDRESS,)

    def load_sdk(self, offer: Offer) -> None:  # noqa: B027  # most have nothing to load
        """Loads what `declare` needs and takes long to be loaded, and asks what it asks of the offer's place, before this process
        forks."""

    @abstractmethod
    def declare(
        self, spec: Spec, offer: Offer, run: Run
    ) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        """Registers the resources inside a Pulumi program.

        Returns:
            For each of the `spec.nodes` machines, in their order, the outputs that `Machine.from_outputs` needs.
            A provider of one machine may return those alone.
        """

    @abstractmethod
    def inventory(self, owner: str | None) -> Sequence[Found]:
        """Everything alive that carries our tags and this owner; a raw listing, without Pulumi.

        Args:
            owner: whose; None for all that the account lists: ours, whoever owns it, and instances that carry no tag of
                ours, with empty tags.

        Raises:
            DayflyError: the listing is not complete; nothing may be concluded from it.
        """

    def left_of(self, run: str, owner: str, where: Sequence[str] = ()) -> Sequence[Found]:
        """What the inventory has of one run; where there is no one listing of everything, only those are asked that know.

        Args:
            run: its id.
            owner: whose it is.
            where: regions of all offers that were ever to be taken for it, as its journal has them; none where nobody knows.

        Raises:
            DayflyError: as of `inventory`.
        """
        return [found for found in self.inventory(owner) if found.run == run]

    @abstractmethod
    def terminate(self, found: Found) -> None:
        """Ends one thing of the inventory; gone already is success."""

    @abstractmethod
    def instance_state(self, id: str) -> State:
        """The state of one instance, in the standard words; "unknown" where the API knows none of that id."""

    def address(self, id: str) -> tuple[str, int] | None:
        """Host and port of the SSH server of a living instance, as the provider tells them now; None where it cannot."""
        return None

    def admit(self, id: str) -> str:
        """Has the firewall of a living instance, where the run has one of its own, let this computer in at the address that
        it has now; what it lets in already stays.

        Returns:
            Who was let in, for people; "" where nothing was to be changed, or nothing can be.

        Raises:
            DayflyError: the provider cannot be asked, or refuses.
        """
        return ""

    def failure(self, error: str) -> FailureKind:
        """The standard kind of what the engine or the API said; no known code is unknown."""
        return "unknown"

    def regions_named(self, error: str) -> Sequence[str]:
        """Regions that a refusal for want of capacity names as having some, the first one first."""
        return ()

    def rules_out(self, error: str, tried: Offer, other: Offer) -> bool:
        """Whether a refusal for want of quota holds for another of its offers as well.

        Args:
            error: what the engine or the API said.
            tried: the offer that was refused.
            other: one that has not been tried.
        """
        return True

    def is_configured(self) -> bool:
        """Whether somebody has set it up on this computer, be it right or wrong."""
        return not self.preflight()

    def dynamic(self) -> Sequence[type[DynamicProvider]]:
        """The classes that make its resources where no plugin of the cloud's own does; a state may refer to no other."""
        return ()

    def preflight(self) -> Sequence[str]:
        """What is missing before anything can run here, each with its fix; empty when all is well."""
        return ()
