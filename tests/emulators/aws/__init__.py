"""AWS on this computer: moto's EC2 and SSM behind a real HTTP server, for boto3 and for a stand-in of Pulumi's plugin. In a test:

    with Aws() as cloud:
        environment = os.environ | cloud.environment()   # AWS_ENDPOINT_URL, credentials, PULUMI_DEBUG_PROVIDERS, port map
        ...
        assert cloud.live() == []

Moto keeps regions, zones, networks, key pairs, groups, rules, volumes, tags and instances, as the application of its own
server. What it does not do is done in front of it:

| moto | here |
|---|---|
| ClientToken is ignored | the same one is the same instance |
| every key is the account's | AuthFailure for any other |
| every launch succeeds | capacity by type and zone, a quota of vCPUs, zones that do not sell a type, in EC2's words |
| every AMI exists, volumes have any size | those of moto and two more do, and are described, and a volume holds its image |
| no public parameters of SSM | those of Canonical and of the GPU images |
| every key name exists; keys are deleted by their names alone | InvalidKeyPair.NotFound; by their ids, too |
| a launch is RUNNING, an end is TERMINATED at once | an end takes until the machine has ended, and `ending_s` |
| what shuts itself down stays | it stops, or is terminated, by its own setting |
| a group or network in use can be deleted | DependencyViolation |
| what is deleted keeps its tags | it has none |
| no spot market | its price by zone, interruption (`preempt`) with EC2's reason, a request behind each spot instance |
| a spot instance can be protected against its end | UnsupportedOperation |
| no list of prices | GetProducts, in the shape that was recorded of the real one |
| no bills | a meter by EC2's own rules: by the second, 60 at least, with volume and address (`meter`) |
| public addresses are anybody's | they are of the ranges for documentation, and DAYFLY_SSH_PORT_MAP says where they are |
| 38 regions | those of an account that has three |

Instances are real SSH servers (`tests.emulators.machines`). Left out: IAM policies, signatures (the id of a key is looked at, the
signature is not), IMDS, elastic addresses, status checks, EBS beyond sizes and tags, networks that block anything, eventual
consistency. Of moto's EC2 one world is in a process at a time.
"""

from tests.emulators.aws.cloud import Aws
from tests.emulators.aws.faults import Fault

__all__ = ["Aws", "Fault"]
