"""The part of Dayfly that runs on the machine: it answers a session, and starts, guards and runs the job.

Standard library only, Python 3.8 and newer, and it never imports dayfly; what runs under the environment's Python loads
cloudpickle and fsspec from there. It travels as a package of its own, named by its
hash: so its imports are relative, and the client imports `frames` and a few more for what both ends must agree on.

    serve                frames on stdin and stdout of one channel; ends when the channel closes
    supervise JOBDIR     detached: starts the job, enforces max_runtime, records how it ended
    run JOBDIR           under the environment's Python: calls the function, leaves the sealed result; of a warm run
                         it is the zygote, which has each call made in a forked child
    restore FOLDER       under the environment's Python: fills the folder with the checkpoints that a bucket has
    sync JOBDIR          the same, beside the job: brings its checkpoints to the bucket while it runs, and at its end
    relay SOCKET         a lane for large content, where the SSH server does not lead to the socket itself
    deadline RUN         detached, or by a timer of systemd: ends every process of the run at a time that can be moved
    gpu all              loads the driver's library, and uses each GPU a little; what it does it says first
    host_key STEP        as root: one step of replacing the host key of this machine's SSH server

Keys and secrets reach each of them through a pipe on stdin, never through argv, a file or the supervisor's environment.
Each process imports what its mode needs and no more: three of them start before the function does.
"""

import sys

_MODES = {
    "supervise": "supervisor",
    "run": "runner",
    "restore": "bucket_process",
    "sync": "bucket_process",
    "relay": "lanes",
    "deadline": "deadline",
    "gpu": "gpu_driver",
    "host_key": "ssh_server",
}


def serve(opening: bytes, cache: str) -> None:
    """Answer one channel, until it closes."""
    from .server import serve as answer

    answer(opening, cache)


def main() -> None:
    """Run the mode that the command line names."""
    from importlib import import_module

    mode, argument = sys.argv[1:3]
    getattr(import_module("." + _MODES[mode], __name__), mode)(argument)
