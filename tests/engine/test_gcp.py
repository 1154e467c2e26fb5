"""Runs on Compute Engine's emulator with the real engine: the plan, a call, full zones, a lost instance, preemption; nothing stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly import cluster
from dayfly.errors import ProvisionFailed
from dayfly.infra.spec import Spec
from dayfly.runtime.call import ladder
from dayfly.runtime.preview import Previewer
from dayfly.stacks import journal
from dayfly.stacks.engine import Engine
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.emulators.gcp import Emulator

pytestmark = [pytest.mark.engine, pytest.mark.sshd, pytest.mark.tried("gcp", "emulator")]
