"""The command that starts the agent on a machine: it needs nothing there but python3, and no round trip of its own."""

from __future__ import annotations

import functools
import hashlib
import shlex
import zlib
from pathlib import Path

from dayfly.runtime import agent

MARK = b"\0dayfly:"
NO_AGENT = bytes(4)
READY, NEED_AGENT, TOO_OLD = b"R", b"N", b"V"

# Runs under any Python 3: takes the opening from stdin, and the agent itself with it or, where the machine has none of
# that hash and the client thought it had, after asking for it. Under a Python that is too old it looks for a newer one before it has read anything.
_STUB = """
import os,sys
if sys.version_info<(3,8):
 if len(sys.argv)<2:
  for n in ["python3.%d"%i for i in range(20,7,-1)]+["python3"]:
   try:os.execvp(n,[n,"-I","-S","-c","h='%s';exec(bytes.fromhex(h))"%h,"again"])
   except OSError:pass
 os.write(1,MARK+b"V");sys.stderr.write(sys.version);sys.exit(3)
def rd(n):
 b=b""
 while len(b)<n:
  c=os.read(0,n-len(b))
  if not c:sys.exit(0)
  b+=c
 return b
import hashlib
os.umask(63)
def block():return rd(int.from_bytes(rd(4),"big"))
o=rd(OPENING);c=block()
d=os.path.join(os.path.expanduser(CACHE),"agents");p=os.path.join(d,SHA+".py")
os.makedirs(d,448,exist_ok=True)
s=os.stat(d)
if s.st_uid!=os.getuid() or s.st_mode&18:sys.exit(d+" belongs to or can be written by somebody else")
try:
 with open(p,"rb") as f:ok=hashlib.sha256(f.read()).hexdigest()==SHA
except OSError:ok=False
if ok or c:os.write(1,MARK+b"R")
else:
 os.write(1,MARK+b"N")
 c=block()
if not ok:
 import zlib
 t="%s.%d"%(p,os.getpid())
 with open(t,"wb") as f:
  f.write(zlib.decompress(c));f.flush();os.fsync(f.fileno())
 os.rename(t,p)
sys.path.insert(0,d)
__import__(SHA).serve(o,CACHE)
"""


@functools.cache
def agent_source() -> bytes:
    """Give the agent's own text."""
    return Path(agent.__file__).read_bytes()


@functools.cache
def agent_block() -> bytes:
    """Give the agent as it is sent: its length in four bytes, then its text, compressed."""
    packed = zlib.compress(agent_source(), 9)
    return len(packed).to_bytes(4, "big") + packed


@functools.cache
def agent_digest() -> str:
    """Give the hash under which a machine keeps this agent."""
    return hashlib.sha256(agent_source()).hexdigest()


def command(run_id: str, cache_dir: str) -> str:
    """Give the command line for the login shell, whichever it is: one line, and nothing secret in it.

    The system's own Python is taken first on Linux: what comes first on PATH may be a script that looks for a Python
    for longer than the whole connection takes. (On macOS that path may open a dialogue instead.)
    """
    values = {
        "CACHE": cache_dir,
        "SHA": agent_digest(),
        "OPENING": agent.OPENING_BYTES,
        "MARK": MARK,
    }
    stub = "".join(f"{name}={value!r}\n" for name, value in values.items()) + _STUB
    python = f"h='{stub.encode().hex()}';exec(bytes.fromhex(h))"
    script = (
        "p=python3; [ -d /proc/self ] && [ -x /usr/bin/python3 ] && p=/usr/bin/python3; "
        f'exec $p -I -S -c "{python}"'
    )
    return f"exec env DAYFLY_RUN={run_id} sh -c {shlex.quote(script)}"
