"""UnfitMachines: what to try after a machine that came up and cannot be used: the same Offer again, then the next."""

from __future__ import annotations

from dayfly.errors import MachineUnfit
from dayfly.infra.offers import Offer

# Another machine of the same Offer is likely to be sound: what fails is one host, seldom a whole region.
_MACHINES_OF_ONE_OFFER = 2


class UnfitMachines:
    """The machines of one job that turned out to be unfit, and so the Offers that the next one may come from.

    Args:
        offers: the ladder.
        most: machines to try at most.
    """

    def __init__(self, offers: tuple[Offer, ...], most: int) -> None:
        self.offers = offers
        self._most = most
        self._reasons: list[str] = []
        self._tried: list[Offer] = []

    def another(self, error: MachineUnfit, offer: Offer) -> bool:
        """Counts a machine of `offer` that was unfit; True where another one may be tried.

        `offers` is then what that one may come from, first choice first. Where none may, `error` tells of all.
        """
        self._reasons.append(f"{offer.instance_type} in {offer.provider}/{offer.region}: {error}")
        if len(self._reasons) >= self._most:
            if len(self._reasons) > 1:
                error.add_note(
                    f"{len(self._reasons)} machines were tried and destroyed:\n"
                    + "\n".join(self._reasons)
                )
            return False
        self._step(offer)
        return True

    def _step(self, offer: Offer) -> None:
        self._tried.append(offer)
        # Those before it had no capacity; one that is not among them came from such a refusal, in its place.
        known = offer in self.offers
        rest = self.offers[self.offers.index(offer) + 1 :] if known else self.offers
        again = self._tried.count(offer) < _MACHINES_OF_ONE_OFFER or not rest
        self.offers = (offer, *rest) if again else rest
