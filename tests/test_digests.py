"""Digests and codes are the same with OpenSSL and without."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dayfly.runtime.agent import digests

# It says on stdout what it makes of what comes on stdin, of which the first bytes are the key; and whether OpenSSL was loaded for that.
_APART = """
import sys
sys.path.insert(0, sys.argv[1])
import digests
key, data = (given := sys.stdin.buffer.read())[:int(sys.argv[2])], given[int(sys.argv[2]):]
print(digests.code_of(key, data).hex(), digests.digest_of(data), "_hashlib" in sys.modules)
"""


@pytest.mark.parametrize("key_bytes", [0, 16, 32, 64])
@pytest.mark.parametrize("size", [0, 1, 63, 64, 1000, 16 << 10])
def test_without_openssl_they_are_the_same(key_bytes: int, size: int) -> None:
    """Of what a session's first frames are."""
    key, data = os.urandom(key_bytes), os.urandom(size)
    folder = str(Path(digests.__file__).parent)
    command = [sys.executable, "-I", "-S", "-c", _APART, folder, str(key_bytes)]
    done = subprocess.run(command, input=key + data, capture_output=True, check=True)
    code, digest = hmac.digest(key, data, "sha256").hex(), hashlib.sha256(data).hexdigest()
    assert done.stdout.decode().split() == [code, digest, "False"]
    # Here it is loaded.
    assert digests.code_of(key, data).hex() == code
    assert digests.digest_of(memoryview(data)) == digest


def test_what_is_large_is_left_to_openssl() -> None:
    """And a key of more than a block is digested first."""
    folder = str(Path(digests.__file__).parent)
    key, data = os.urandom(65), os.urandom((16 << 10) + 1)
    command = [sys.executable, "-I", "-S", "-c", _APART, folder, "65"]
    done = subprocess.run(command, input=key + data, capture_output=True, check=True)
    code, digest = hmac.digest(key, data, "sha256").hex(), hashlib.sha256(data).hexdigest()
    assert done.stdout.decode().split() == [code, digest, "True"]
