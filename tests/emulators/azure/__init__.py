"""An emulator of Azure: Resource Manager as a real HTTP server for Azure's own SDK, and a stand-in for the `azure-native` plugin,
both in front of one world with quotas, references, orders of deletion, and real SSH servers as virtual machines. In a test:

    with Emulator() as azure:
        environment = os.environ | azure.environment()
        ...
        assert azure.world.all() == []

Real: HTTP over TCP with tokens that azure-identity fetches (as of an App Service's managed identity), `api-version`, the error
envelope, pages, operations that are followed by Azure-AsyncOperation or Location; names, required properties and references of
resource groups, virtual machines, disks, network interfaces, public addresses, virtual networks, subnets, network security groups
and their rules; what is in use is not deleted, a group that is being deleted takes nothing new, and goes with all that is in it; a
machine that could not be allocated stays, as failed; delete options; firewalls bar whoever they do not let in; custom data is never
given back. The plugin has the error texts of the real one, waits as it does, and gives the id of what was accepted and then failed.

Left out: everything else of the API (404); other authentication; zones, availability sets, scale sets, images of one's own (any id
will do); the caches by which real listings lag; dissimilar API versions (any date will do); roles, policies and locks, but for the
refusals that a test asks for; the order of `$filter`; the price of a disk or an address without its machine. Of a machine what
`tests.emulators.machines` leaves out. Prices and cores are those of Dayfly's own catalog.
"""

from tests.emulators.azure.emulator import Emulator
from tests.emulators.azure.options import Options

__all__ = ["Emulator", "Options"]
