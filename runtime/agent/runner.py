"""The process in which the function of a job is called."""

from __future__ import annotations

import os
import sys

from .caller import Caller, Stopping
from .frames import RESULT_SEQ, TASK_SEQ, open_sealed
from .gpus import GpuQuery
from .job_folder import JobFolder
from .json_text import loads
from .processes import end_process, take_order, volunteer_for_oom
from .sealed_writer import SealedWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any


class Runner(Caller):
    """Runs one task: calls its function and leaves what came of it as a sealed result."""

    def __init__(self, job: JobFolder, order: Mapping[str, Any]) -> None:
        self.job, self.order = job, order
        self._run_id = order["run_id"]
        self._key = bytes.fromhex(order["key"])
        super().__init__(Stopping(), GpuQuery().answer, self._result)

    def _result(self) -> SealedWriter:
        return SealedWriter(self.job.file("result.sealed"), self._key, self._run_id, RESULT_SEQ)

    def run(self) -> int:
        """Run the task and give the exit code of the process."""
        task = open_sealed(self._key, self._run_id, TASK_SEQ, self.job.file("task.sealed"))
        header = loads(task.readline())
        here = "%d.%d" % sys.version_info[:2]  # noqa: UP031 - as everywhere here, 3.8 must read it
        if header["python"] != here:
            os.write(
                2,
                f"dayfly: the function was pickled by Python {header['python']}, this is {here}\n".encode(),
            )
            return 78
        self._prepare()
        if "warm" in header:
            from .zygote import Zygote

            task.close()
            return Zygote(self.job, self.order, header["warm"], self._gpus).serve()
        self.take_sources(header["sources"])
        try:
            outcome, value = self._outcome(header["imports"], task)
        except KeyboardInterrupt:
            if not self._stopping.asked:
                raise
            sys.stderr.write(self._traceback(sys.exc_info()[1]))
            return 143
        self.leave(outcome, value)
        return 0

    def _prepare(self) -> None:
        pickler = self.order["pickler"]
        sys.argv = [""]
        # The agent's own folder was put first by the launcher; the pickler must win over one of the environment.
        sys.path[0] = pickler
        import cloudpickle  # noqa: F401 - from here on it is the one that was loaded

        sys.path[0] = ""
        sys.path.append(pickler)

    def _outcome(self, imports: Iterable[str], task: Any) -> tuple[dict[str, Any], Any]:
        with task:
            failure, loaded = self.load(imports, task)
        return (failure, loaded) if failure is not None else self.call(*loaded)


def run(path: str) -> None:
    """Run the job in `path` in this process, and end it."""
    import faulthandler

    order = take_order()
    os.umask(0o077)
    os.environ.update(order["secrets"])
    faulthandler.enable()
    volunteer_for_oom()
    code = 1
    try:
        code = Runner(JobFolder(path), order).run()
    except BaseException:  # noqa: BLE001 - said on the job's stderr, and the supervisor reports the code
        sys.excepthook(*sys.exc_info())
    end_process(code)
