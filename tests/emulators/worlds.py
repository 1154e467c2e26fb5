"""Several emulated clouds at once, as the environment tells of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

from tests.emulators.aws import Aws
from tests.emulators.azure import Emulator as Azure
from tests.emulators.azure import Options as AzureOptions
from tests.emulators.gcp import Emulator as Gcp
from tests.emulators.lambda_cloud import Emulator as LambdaCloud
from tests.emulators.lambda_cloud import Options as LambdaOptions

# Lists, to which each has to add its own.
_LISTS = {"PULUMI_DEBUG_PROVIDERS": ",", "DAYFLY_SSH_PORT_MAP": os.pathsep}


def together(*environments: Mapping[str, str]) -> dict[str, str]:
    """One environment for all of them: the plugins of each are attached to, and the machines of each are found."""
    merged = {name: value for each in environments for name, value in each.items()}
    for name, mark in _LISTS.items():
        if found := [each[name] for each in environments if each.get(name)]:
            merged[name] = mark.join(found)
    return merged


@contextlib.contextmanager
def empty() -> Iterator[dict[str, str]]:
    """An empty world of every cloud, without machines: instances can be asked for, and nobody can log in to them."""
    with (
        LambdaCloud(
            LambdaOptions(machines=False, time_scale=50, request_interval_s=0)
        ) as lambda_cloud,
        Aws(machines=False) as aws,
        Azure(AzureOptions(machines=False)) as azure,
        Gcp(machines=False) as gcp,
    ):
        clouds = (lambda_cloud, aws, azure, gcp)
        yield together(*(each.environment() for each in clouds))
