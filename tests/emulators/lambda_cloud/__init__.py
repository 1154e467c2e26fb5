"""An emulator of Lambda Cloud: a real HTTP server with the API's documented rules, real machines behind it, a ground
truth in a log of its own, a dollar meter and a fault script. In a test:

    with Emulator(Options(time_scale=10)) as cloud:
        environment = os.environ | cloud.environment()   # LAMBDA_API_URL, LAMBDA_API_KEY, DAYFLY_SSH_PORT_MAP
        ...
        assert cloud.live() == []

Real: HTTP over TCP, in a process of its own; both ways of authentication; every rule of the API's description 1.10.0
for instances, types, SSH keys, file systems, images, regions and firewalls, with its codes and statuses; pace limits;
each instance an OpenSSH server in mount, PID, UTS and IPC namespaces with a root, a home and a hostname of its own, which
shows an image's host key until it has applied its user data, and of which nothing is left when it is terminated.

Measured in the field and not in the description, so adjustable: delays, listing lag, page tokens, what a 429 looks like.

Left out: tickets, audit events and fabric (404); firewalls are kept and shown but block nothing; an instance sees this
computer's network, processors, memory and clock, and its files by copy-on-write, so that installing packages works as it
does here; there is no systemd; `ubuntu` is another name of root and `sudo` a few lines of shell; of cloud-init's modules
write_files, ssh_keys, ssh_deletekeys, ssh_genkeytypes, ssh_authorized_keys and runcmd are known, and what else is asked for is named in
the log; `jupyter_url` leads nowhere. A field that the description does not have is refused here, whatever the real API does.
"""

from tests.emulators.lambda_cloud.emulator import Emulator
from tests.emulators.lambda_cloud.faults import Fault
from tests.emulators.lambda_cloud.options import Options

__all__ = ["Emulator", "Fault", "Options"]
