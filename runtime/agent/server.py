"""One channel's answers."""

from __future__ import annotations

import json
import os
import sys
import time

from .asked import Asked, as_root
from .blobs import BLOB_MODE, BLOB_UNUSED_S, is_whole, place_blob, prune
from .cloudpickle_folder import unpack_pickler
from .credit import Credit
from .deadline import arm_deadline
from .environment import Environment
from .facts import interpreters, machine_facts
from .files import home_folder, in_folder, read_exactly, remove_tree, size_of, write_all, write_file
from .frames import (
    CHUNK_BYTES,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    OPENING_BYTES,
    FrameError,
    channel_keys,
    decode,
    digest_of,
    encode,
    open_header,
    seal,
    unseal,
)
from .gpus import gpu_findings
from .inbox import Inbox, parcel
from .job_folder import JobFolder, request_stop
from .lanes import Lanes
from .log_follower import LogFollower
from .output_folder import OutputFolder
from .processes import carriers, launch_command, login_environment, spawn_with_order
from .refusal import TEXT_CHARACTERS, Refusal
from .sample_file import SampleReader
from .samples import IDLE_ORDERS, SAMPLES
from .transfer import Transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from subprocess import Popen
    from typing import Any


class Server:
    """One channel's agent: answers each request, the slow ones in a thread of their own."""

    # What sends more than the client may be able to take in.
    CREDITED = frozenset({"attach", "get", "outputs", "files"})
    THREADED = CREDITED | {
        "look",
        "receive",
        "environment",
        "stop",
        "facts",
        "gpus",
        "host_key",
        "deadline",
        "data_tree",
        "warm",
    }

    def __init__(self, run_id: str, key: bytes, nonce: bytes, cache: str) -> None:
        import threading

        self.run_id, self.key, self.cache = run_id, key, cache
        self.job = JobFolder.of(run_id)
        self._receive_key, self._send_key = channel_keys(key, nonce)
        self._received = self._sent = 0
        self._sending = threading.Lock()
        self._credits: dict[int, Credit] = {}
        self.builds: set[Popen[str]] = set()
        self._zygotes: dict[int, Any] = {}
        self._moving = threading.Lock()
        self.lanes = Lanes(self, nonce)
        self.transfers: dict[int, Transfer] = {}

    def serve(self) -> None:
        """Answer until the channel closes."""
        self.send({"id": 0, "pid": os.getpid(), "python": "%d.%d" % sys.version_info[:2]})  # noqa: UP031
        while True:
            header = read_exactly(0, HEADER_BYTES)
            if not header:
                return
            length, _ = open_header(self._receive_key, self.run_id, self._received, header)
            if length > FRAME_BYTES_MAX:
                raise FrameError(f"a frame of {length} bytes")
            frame = header + read_exactly(0, length)
            payload = unseal(self._receive_key, self.run_id, self._received, frame)
            self._received += 1
            self._dispatch(*decode(payload))

    def send(self, head: Mapping[str, Any], body: bytes = b"") -> None:
        payload = encode(head, body)
        with self._sending:
            frame = seal(self._send_key, self.run_id, self._sent, payload)
            self._sent += 1
            write_all(1, frame)

    def _dispatch(self, request: dict[str, Any], body: bytes) -> None:
        if request["op"] == "credit":
            credit = self._credits.get(request["of"])
            if credit is not None:
                credit.give(request["bytes"])
        elif request["op"] in self.THREADED:
            import threading

            if request["op"] in self.CREDITED:
                self._credits[request["id"]] = Credit()
            threading.Thread(target=self._answer, args=(request, body), daemon=True).start()
        else:
            self._answer(request, body)

    def _answer(self, request: dict[str, Any], body: bytes) -> None:
        try:
            answer = getattr(self, "on_" + request["op"])(request, body)
        except Refusal as refusal:
            answer = {"error": refusal.kind, "message": str(refusal)}
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the client must hear of it
            answer = {"error": "machine", "message": f"{type(error).__name__}: {error}"}
        finally:
            self._credits.pop(request["id"], None)
        if answer is not None:
            try:
                self.send({"id": request["id"], "done": True, **answer})
            except OSError:
                return  # The channel closed; the main thread is ending the process.

    def _emit(self, request: Mapping[str, Any], head: Mapping[str, Any], body: bytes = b"") -> None:
        self.send({"id": request["id"], **head}, body)

    # -- small answers

    def on_ping(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        return {}

    def on_facts(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        return machine_facts(self.cache)

    def on_gpus(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        return gpu_findings(request["seconds"])

    def on_host_key(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Make the key that is to replace the pinned one, or, where the client has written it down, install it."""
        step = json.dumps({name: request[name] for name in ("pinned", "offered")})
        command = as_root(launch_command(sys.executable, ("-I", "-S", "-B"), "host_key", step))
        done = Asked(command).wait(request["seconds"])
        if done.code != 0:
            words = done.complaint[-TEXT_CHARACTERS:] or "no answer in time"
            raise Refusal("host_key", f"the host key cannot be replaced: {words}")
        return {"host_key": done.words}

    def on_stat(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        return self.job.status()

    def on_ack(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        if self.job.exists():
            write_file(self.job.file("acknowledged"), b"")
        return {}

    def on_deadline(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        how = {name: request[name] for name in ("timer", "power_off")}
        return {"by": arm_deadline(self.run_id, request["seconds"], **how)}

    def on_interpreter(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        return {"python": interpreters(self.cache).get(request["minor"], "")}

    # -- content by digest

    def _blob(self, digest: str) -> str:
        folder = os.path.join(self.cache, "blobs")
        os.makedirs(folder, 0o700, exist_ok=True)
        return os.path.join(folder, os.path.basename(digest))

    def on_put(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Take content by digest that is small enough for one frame."""
        if digest_of(body) != request["digest"]:
            raise Refusal("digest", "what arrived is not what was sent")
        blob = self._blob(request["digest"])
        if not is_whole(blob, len(body)):
            place_blob(blob, body)
        return {}

    def on_receive(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Take content that comes in pieces, by frames or over lanes; tells how much is there, and ends when all is.

        Its digest may be told later, so that nobody has to wait for it with sending.
        """
        size = request["size"]
        if request["digest"] and is_whole(self._blob(request["digest"]), size):
            return {"have": size}
        part = f"{self._blob(request['name'])}.{self.run_id}.part"
        transfer = self.transfers[request["of"]] = Transfer(part, size)
        if request["digest"]:
            transfer.name(request["digest"])
        try:
            self._emit(request, {"gaps": transfer.arrival.gaps()})
            digest = transfer.digested(
                lambda: is_whole(self._blob(transfer.named), size),
                lambda have: self._emit(request, {"have": have}),
            )
            if digest and digest != transfer.named:
                transfer.discard()
                kind = "stale" if transfer.resumed else "digest"
                raise Refusal(kind, "what arrived is not what was sent")
            transfer.keep(self._blob(transfer.named))
            return {"have": size}
        finally:
            del self.transfers[request["of"]]
            transfer.close()

    def on_piece(self, request: dict[str, Any], body: bytes) -> None:
        """Take a piece of what is being received."""
        transfer = self.transfers.get(request["of"])
        if transfer is not None:
            start = request["offset"]
            transfer.write(start, start, body, start + len(body))

    def on_named(self, request: dict[str, Any], body: bytes) -> None:
        """Learn the digest of what is being received."""
        transfer = self.transfers.get(request["of"])
        if transfer is not None:
            transfer.name(request["digest"])

    def on_lanes(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Listen for lanes, and tell where; nowhere where there is no place for a socket."""
        try:
            path = self.lanes.listen(request["most"])
        except OSError:
            return {"path": "", "relay": []}
        command = launch_command(sys.executable, ("-I", "-S"), "relay", path)
        return {"path": path, "relay": ["env", f"DAYFLY_RUN={self.run_id}", *command]}

    def source(self, what: str) -> str:
        """Give the path of what may be asked for: the result of the run, or that of a warm call by its number."""
        if what == "result":
            return self.job.file("result.sealed")
        if what.isdigit():
            return self.job.file(os.path.join("calls", f"{what}.sealed"))
        raise Refusal("machine", f"there is nothing called {what!r} to get")

    # -- data: content by digest, many at a time, and folders of it

    def on_data_have(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Tell how much is here of each [digest, size], and how much room is left; -1 of an empty one that is not here."""
        # Looked at by name first: most of many small files are new to a machine, and each look at one costs a call.
        folder = os.path.dirname(self._blob(""))
        names = set(os.listdir(folder))
        have = []
        for digest, size in json.loads(body):
            if digest in names and is_whole(os.path.join(folder, digest), size):
                have.append(size)
            else:
                part = f"{digest}.{self.run_id}.part"
                there = Transfer.there(os.path.join(folder, part)) if part in names else 0
                have.append(min(there, size - 1))
        room = os.statvfs(folder)
        return {"have": have, "free": room.f_bavail * room.f_frsize}

    def on_data_pack(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Take several contents of [digest, size], one behind the other in the frame."""
        place = 0
        for digest, size in request["blobs"]:
            data = body[place : place + size]
            place += size
            if digest_of(data) != digest:
                raise Refusal("digest", "what arrived is not what was sent")
            blob = self._blob(digest)
            if not is_whole(blob, size):
                place_blob(blob, data)
        return {}

    def on_data_tree(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Make a folder of content that is here, once for a run, and give its path; its list is content, too."""
        base = os.path.join(home_folder(), f"data-{self.run_id}")
        place = os.path.join(base, os.path.basename(request["key"]))
        with open(self._blob(request["list"]), "rb") as file:
            told = json.loads(file.read())
        if not os.path.isdir(place):
            os.makedirs(base, 0o700, exist_ok=True)
            aside = f"{place}.{os.getpid()}.{time.time_ns()}"
            os.mkdir(aside, 0o700)
            for path, digest, size, mode in told["entries"]:
                self._place(os.path.join(aside, path), digest, size, mode)
            try:
                os.rename(aside, place)
            except OSError:
                remove_tree(aside)  # Another session was first.
            prune(os.path.join(self.cache, "blobs"), time.time() - BLOB_UNUSED_S)
        return {"path": os.path.join(place, told["name"])}

    def place_blob(self, path: str, digest: str, size: int, mode: int) -> None:
        if not digest:
            os.makedirs(path, 0o700, exist_ok=True)
            return None
        blob = self._blob(digest)
        if not is_whole(blob, size):
            raise Refusal("data", f"content {digest} is not here any more")
        if not mode & 0o100:
            try:
                return os.link(blob, path)
            except OSError:
                pass  # Another file system, or one that has no links.
        from shutil import copyfile

        copyfile(blob, path)
        os.chmod(path, BLOB_MODE | (mode & 0o100))
        return None

    # -- the job

    def on_start(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Start the job unless it was started before; the task is the frame's body or a blob."""

        def place_task(path: str) -> None:
            if request["task"]:
                os.rename(self._blob(request["task"]), path)
            else:
                write_file(path, body)
            if request["checkpoints"]:
                self._restore(os.path.dirname(path), request["checkpoints"])

        if self.job.exists() and self.job.status()["state"] != "absent":
            return {"started": False}
        python = self._interpreter(request["python"])
        pickler = unpack_pickler(self._blob(request["pickler"]), self.cache)
        lock = self.job.claim(place_task)
        if lock is None:
            return {"started": False}
        order = {
            name: request[name]
            for name in ("variables", "secrets", "max_runtime_s", "grace_s", "hold_s", *IDLE_ORDERS)
        }
        order.update(
            run_id=self.run_id, key=self.key.hex(), python=python, pickler=pickler, lock=lock
        )
        try:
            self._start_supervisor(order, lock)
        finally:
            os.close(lock)
        return {"started": True}

    def _restore(self, folder: str, listing: str) -> None:
        """Put an earlier attempt's checkpoints into the job's folder, as files of its own."""
        from shutil import copyfile

        with open(self._blob(listing), "rb") as file:
            told = json.loads(file.read())
        for path, digest, size, mode in told["entries"]:
            place = os.path.join(folder, path)
            if not digest:
                os.makedirs(place, 0o700, exist_ok=True)
                continue
            blob = self._blob(digest)
            if not is_whole(blob, size):
                raise Refusal("data", f"content {digest} is not here any more")
            copyfile(blob, place)
            os.chmod(place, 0o600 | mode)
        for path, target in told["links"]:
            os.symlink(target, os.path.join(folder, path))

    def _interpreter(self, wanted: str) -> str:
        if os.path.sep in wanted:
            return os.path.expanduser(wanted)
        found = interpreters(self.cache).get(wanted)
        if found is None:
            raise Refusal("environment", f"the machine has no Python {wanted}")
        return found

    def _start_supervisor(self, order: Mapping[str, Any], lock: int) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        log = os.open(self.job.file("supervisor.log"), os.O_WRONLY | os.O_APPEND)
        command = launch_command(sys.executable, ("-I", "-S"), "supervise", self.job.path)
        try:
            child = spawn_with_order(
                command,
                login_environment(self.run_id),
                "/",
                (nothing, log),
                order=order,
                keep=(lock,),
            )
            os.waitpid(child, 0)
        finally:
            os.close(nothing)
            os.close(log)

    def _require_job(self) -> None:
        if self.job.status()["state"] != "absent":
            return
        words = ""
        if self.job.exists():
            with open(self.job.file("supervisor.log"), encoding="utf-8", errors="replace") as file:
                words = file.read()[-TEXT_CHARACTERS:]
        raise Refusal("absent", f"no job of this run was started on the machine. {words}".strip())

    def on_stop(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """End the job and tell how it ended; a job that has ended already is left as it is."""
        if self.job.exists() or not carriers(self.job.mark()):
            self._require_job()
        request_stop(self.job, "stopped")
        while True:
            end = self.job.end() or self.job.end_without_supervisor()
            if end is not None:
                return {"end": end}
            time.sleep(0.01)

    def on_attach(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Send both logs from the given offsets, and the samples after a number, until the job has ended and all is sent."""
        self._require_job()
        follower = LogFollower(self.job, request["offsets"], request["samples"])
        credit = self._credits[request["id"]]
        try:
            for stream, offset, data in follower.chunks():
                credit.take(len(data))
                self._emit(request, {"stream": stream, "offset": offset}, data)
        finally:
            follower.close()
        return {"end": follower.end}

    def on_look(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Send the samples after a number, and so many of the last bytes of each log, once."""
        self._require_job()
        reader = SampleReader(self.job.file(SAMPLES), request["samples"])
        for number, data in reader.unread():
            self._emit(request, {"stream": "samples", "offset": number}, data)
        for name in ("stdout", "stderr") if request["tail"] else ():
            path = self.job.file(f"{name}.log")
            with open(path, "rb") as log:
                offset = log.seek(max(0, size_of(path) - request["tail"]))
                self._emit(request, {"stream": name, "offset": offset}, log.read(request["tail"]))
        return self.job.status()

    def on_get(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Send the sealed result, the run's or that of one warm call, from an offset on.

        Where that is more than is wanted in this way, only its size is told.
        """
        try:
            descriptor = os.open(self.source(request["what"]), os.O_RDONLY)
        except FileNotFoundError:
            raise Refusal("result", "the job left no result") from None
        credit, offset = self._credits[request["id"]], request["offset"]
        try:
            size = os.fstat(descriptor).st_size
            if size - offset > request["most"]:
                return {"size": size}
            while True:
                data = os.pread(descriptor, CHUNK_BYTES, offset)
                if not data:
                    break
                credit.take(len(data))
                self._emit(request, {"offset": offset}, data)
                offset += len(data)
        finally:
            os.close(descriptor)
        return {"size": size}

    # -- what the job has left in its folder for outputs

    def on_outputs(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """List them, some at a time; a job whose folder is gone has left none."""
        credit = self._credits[request["id"]]
        batch: list[Any] = []
        for entry in OutputFolder(self.job.file(os.path.basename(request["of"]))).entries():
            batch.append(entry)
            if len(batch) == OutputFolder.BATCH:
                self._emit_list(request, credit, batch)
                batch = []
        self._emit_list(request, credit, batch)
        return {}

    def _emit_list(self, request: Mapping[str, Any], credit: Credit, batch: list[Any]) -> None:
        data = json.dumps(batch).encode()
        credit.take(len(data))
        self._emit(request, {"entries": len(batch)}, data)

    def on_files(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Send the files that are asked for as [path, offset, size], one after the other, each with its digest."""
        folder = OutputFolder(self.job.file(os.path.basename(request["of"])))
        credit = self._credits[request["id"]]

        def send(head: dict[str, Any], data: bytes) -> None:
            credit.take(len(data))
            self._emit(request, head, data)

        for number, (path, offset, size) in enumerate(json.loads(body)):
            try:
                for head, data in folder.read(path, offset, size):
                    send({"file": number, **head}, data)
            except ValueError as error:
                send({"file": number, "why": str(error)}, b"")
        return {}

    # -- warm calls

    def on_warm(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Carry parcels between this client and the zygote until that one hangs up; the others come by `on_pass`."""
        self._require_job()
        channel = self._reach_zygote()
        self._zygotes[request["id"]] = channel
        inbox = Inbox()
        try:
            hello = {
                "generation": request["generation"],
                "blobs": os.path.dirname(self._blob("x")),
            }
            channel.sendall(parcel(encode(hello)))
            for data in iter(lambda: channel.recv(1 << 18), b""):
                for payload in inbox.payloads(data):
                    self._emit(request, {}, payload)
        except ConnectionError:
            return {}
        finally:
            del self._zygotes[request["id"]]
            channel.close()
        return {}

    def _reach_zygote(self) -> Any:
        """Connect to it as soon as it listens."""
        import socket

        while True:
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                with self._moving:
                    in_folder(self.job.path, lambda: channel.connect("zygote"))  # noqa: B023 - called at once
                return channel
            except (FileNotFoundError, ConnectionRefusedError):
                channel.close()
            if self.job.status()["state"] == "ended":
                raise Refusal("ended", "the run takes no more calls: it has ended")
            time.sleep(0.005)

    def on_pass(self, request: dict[str, Any], body: bytes) -> None:
        """Hand a parcel on; where the zygote has gone, whoever asked for it hears of that by `on_warm`."""
        channel = self._zygotes.get(request["of"])
        if channel is not None:
            try:
                channel.sendall(parcel(body))
            except OSError:
                return

    # -- the environment

    def on_environment(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Make the environment, or find it made; without uv in the request only the latter."""
        environment = Environment(self, request)
        if not request["uv"]:
            return {"python": environment.ready()}
        return {"python": environment.build(lambda line: self._emit(request, {"line": line}))}


def serve(opening: bytes, cache: str) -> None:
    """Answer one session; the opening is nonce, key and run id, which the stub on the command line has read."""
    nonce, key, run_id = opening[:16], opening[16:48], opening[48:OPENING_BYTES].hex()
    # What outlives this process carries the mark of its run in the environment that it starts with.
    os.environ["DAYFLY_RUN"] = run_id
    os.umask(0o077)
    server = Server(run_id, key, nonce, os.path.abspath(os.path.expanduser(cache)))
    try:
        server.serve()
    except FrameError as error:
        os.write(2, f"dayfly: {error}\n".encode())
    except Exception:  # noqa: BLE001 - the process ends below without another word
        sys.excepthook(*sys.exc_info())
    finally:
        import signal

        server.lanes.close()
        for build in list(server.builds):
            try:
                os.killpg(build.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        # Threads may be waiting for credit that never comes.
        os._exit(0)
