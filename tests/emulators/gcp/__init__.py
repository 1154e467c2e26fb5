"""An emulator of Google Compute Engine: one ground truth, in front of which are its REST API for Google's own client library,
the price catalogue's, and a stand-in for the `gcp` Pulumi plugin, which the real engine attaches to. In a test:

    with Emulator() as cloud:
        environment = os.environ | cloud.environment()
        ...
        assert cloud.rows() == {}

Real: HTTP over TCP and the engine's gRPC, in a process of its own; the documented rules of names, labels, metadata, required
fields, references, quotas and the order of deletion for networks, subnetworks, firewall rules, instances and their disks;
operations that are polled and end in `error.errors[].code`; aggregated lists with filters; `max_run_duration` and
`termination_time`, preemption and the termination action; the words of terraform-provider-google's errors. Each instance is an OpenSSH server of its own
(`tests.emulators.machines`) behind its network's firewall rules, with the user data applied.

Its meter bills by the second from when an instance runs until it has stopped, a minute at least.

Left out: authentication and IAM but for one permission that can be withdrawn; every other resource and method (404); paging of
lists other than the price catalogue's; updates of instances; routes, egress and rules between machines; OS Login; images but for
two families of Ubuntu and one with NVIDIA's driver; the metadata server; the least time of 30 s that a machine
has before its clock ends it. Operations take milliseconds, and the end of a machine that is taken back seconds, unless a test says
otherwise. The price catalogue has the few rows that Dayfly reads, and some that it must not.
"""

from tests.emulators.gcp.emulator import Emulator

__all__ = ["Emulator"]
