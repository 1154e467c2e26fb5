"""Loaded by every interpreter that has this folder on PYTHONPATH: switches one safety rule of the product off there."""

import os

from tests.faults import switches

switches.apply_on_import(os.environ[switches.VARIABLE])
