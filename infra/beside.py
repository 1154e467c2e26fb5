"""What the large clouds' prices have in common beside the machine's own."""

from __future__ import annotations

# The clouds' own number, by which a price for a month becomes one for an hour.
MONTH_H = 730.0
# Without a limit the price of a spot machine may rise to that on demand, and a worst case would be none: so many times the price of
# now are its rate, and the most that the cloud is told to take, where it can be told (Compute Engine takes no limit).
SPOT_MARGIN = 1.2
AT_MOST = f"at most {SPOT_MARGIN:g} times the spot price of now"


def said(usd_per_hour: float, disk_gb: int) -> str:
    """What an Offer's source has of its disk and its public address."""
    return f"with ${usd_per_hour:.4f} for {disk_gb} GB of disk and an address"
