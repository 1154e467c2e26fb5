"""The command that starts the agent on a machine: it needs nothing there but python3, and no round trip of its own."""

from __future__ import annotations

import binascii
import functools
import hashlib
import json
import shlex
import zlib
from pathlib import Path

from dayfly.runtime import agent
from dayfly.runtime.agent import frames

MARK = b"\0dayfly:"
NO_AGENT = bytes(4)
READY, NEED_AGENT, TOO_OLD = b"R", b"N", b"V"

# Runs under any Python 3: takes the opening from stdin, and the agent itself with it or, where the machine has none of
# that hash and the client thought it had, after asking for it. Whether what is there is whole is told by a sum of it: its hash would take
# longer than all else, since OpenSSL and json have to be loaded for that. Under a Python that is too old it looks for a newer one before it has read anything.
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
from binascii import crc32
os.umask(63)
def block():return rd(int.from_bytes(rd(4),"big"))
o=rd(OPENING);c=block()
d=os.path.join(os.path.expanduser(CACHE),"agents");p=os.path.join(d,SHA)
os.makedirs(d,448,exist_ok=True)
s=os.stat(d)
if s.st_uid!=os.getuid() or s.st_mode&18:sys.exit(d+" belongs to or can be written by somebody else")
def whole():
 s=0
 try:
  for n in sorted(os.listdir(p)):
   if n.endswith(".py"):
    with open(os.path.join(p,n),"rb") as f:s=crc32(f.read(),crc32(n.encode(),s))
 except (OSError,ValueError):return False
 return s==SUM
ok=whole()
if ok or c:os.write(1,MARK+b"R")
else:
 os.write(1,MARK+b"N")
 c=block()
if not ok:
 import json,shutil,zlib
 t="%s.%d"%(p,os.getpid())
 shutil.rmtree(t,True);os.mkdir(t,448)
 for n,x in json.loads(zlib.decompress(c).decode()).items():
  with open(os.path.join(t,n),"wb") as f:f.write(x.encode())
 if not whole():
  try:os.rename(p,t+".old")
  except OSError:pass
 try:os.rename(t,p)
 except OSError:
  if not whole():raise
 shutil.rmtree(t,True);shutil.rmtree(t+".old",True)
sys.path.insert(0,d)
__import__(SHA).serve(o,CACHE)
"""


def text_of(folder: Path) -> str:
    """Give all modules of a folder as one JSON object, from name to text: what has the agent's hash."""
    files = sorted(folder.glob("*.py"))
    return json.dumps({file.name: file.read_bytes().decode() for file in files})


@functools.cache
def agent_sum() -> int:
    """Give the sum by which a machine knows the agent that it has to be whole: names and texts in their order."""
    made = 0
    for name, text in sorted(json.loads(agent_text()).items()):
        made = binascii.crc32(text.encode(), binascii.crc32(name.encode(), made))
    return made


@functools.cache
def agent_text() -> str:
    """Give the agent as `text_of` its folder."""
    return text_of(Path(agent.__file__).parent)


@functools.cache
def agent_block() -> bytes:
    """Give the agent as it is sent: its length in four bytes, then its text, compressed."""
    packed = zlib.compress(agent_text().encode(), 9)
    return len(packed).to_bytes(4, "big") + packed


@functools.cache
def agent_digest() -> str:
    """Give the hash under which a machine keeps this agent."""
    return hashlib.sha256(agent_text().encode()).hexdigest()


def command(run_id: str, cache_dir: str) -> str:
    """Give the command line for the login shell, whichever it is: one line, and nothing secret in it.

    The system's own Python is taken first on Linux: what comes first on PATH may be a script that looks for a Python
    for longer than the whole connection takes. (On macOS that path may open a dialogue instead.)
    """
    values = {
        "CACHE": cache_dir,
        "SHA": agent_digest(),
        "SUM": agent_sum(),
        "OPENING": frames.OPENING_BYTES,
        "MARK": MARK,
    }
    stub = "".join(f"{name}={value!r}\n" for name, value in values.items()) + _STUB
    python = f"h='{stub.encode().hex()}';exec(bytes.fromhex(h))"
    script = (
        "p=python3; [ -d /proc/self ] && [ -x /usr/bin/python3 ] && p=/usr/bin/python3; "
        f'exec $p -I -S -c "{python}"'
    )
    return f"exec env DAYFLY_RUN={run_id} sh -c {shlex.quote(script)}"
