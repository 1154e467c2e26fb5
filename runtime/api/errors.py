"""Every error that Dayfly raises on purpose.

    DayflyError
    ├── SpecError               what was asked for cannot be (phase plan; nothing exists, nothing was spent)
    ├── ConfigurationError      a setting, a folder or a key of this computer is wrong (phase plan)
    ├── PayloadError            the function or an argument cannot travel (phase plan)
    ├── EngineMissing           no Pulumi CLI could be found, installed or built (phase plan)
    │   └── PluginMissing       a vendor's plugin is not there and could not be installed (phase plan)
    ├── BackendFailed           the state backend could not be asked, or holds what cannot be trusted (phase plan)
    ├── BudgetExceeded          it may cost more than max_cost, max_price or a budget allows (phase plan)
    ├── PlanChanged             what was planned is not what would happen now (phase plan)
    ├── PolicyDenied            a policy allows none of what was asked for (phase plan)
    ├── UnknownRun              no run of that id, or more than one of that prefix
    ├── RunBusy                 another client is using this run right now
    ├── KeeperMissing           the keeper is not there and cannot be started
    ├── GcFrozen                too much would be destroyed, or not all could be seen: somebody has to look first
    ├── ProvisionFailed         the stack did not come up (phase provision; has a kind)
    │   └── NoCapacity          every Offer of the ladder was refused for want of capacity
    ├── ConnectFailed           the machine never answered over SSH (phase connect)
    │   └── HostKeyMismatch     the machine showed another host key than the pinned one
    ├── MachineUnfit            a machine came up that cannot be used; another was tried (phase connect)
    │   ├── GpuUnfit            its GPUs are not those of the Offer, or do not work
    │   ├── HostKeyNotRotated   its bootstrap host key could not be replaced
    │   └── KeptMachineLost     it was kept for this call and is gone, or cannot be used; the call gets another
    ├── EnvironmentFailed       the Python environment could not be made (phase environment)
    ├── DataFailed              a Data argument cannot come to the machine (phase data)
    ├── RunFailed               the function did not give a value, and not by raising (phase run)
    │   ├── JobKilled           a signal ended its process: says which, and whether memory ran out
    │   ├── JobExited           its process ended with an exit code and no result
    │   ├── JobStopped          it was stopped on request
    │   ├── DeadlineReached     max_runtime or max_cost ended it
    │   ├── Detached            this process has let go of it, as was asked for; it goes on, and has its value later
    │   │   └── TakenOver       another computer has taken it in hand, and gets its log and its value
    │   ├── GpuIdle             a GPU stayed under min_gpu_utilization, so the machine ended it
    │   ├── CallTimeout         the timeout of one call of a warm run ended that call
    │   └── InstanceLost        the machine is gone or was not reachable for too long
    ├── ResultFailed            the value cannot come back (phase result)
    │   ├── OutputsFailed       its machine went before all of DAYFLY_OUTPUT_DIR was here; the value is
    │   ├── UnpicklableResult   the function's value, or the exception that it raised, cannot be pickled
    │   └── Forged              a frame is not authentic for this run: nothing of it was unpickled
    └── LeakRisk                it could not be proved that nothing is left (phase teardown)

The user's own exception comes back as itself, never wrapped in one of these.
"""

from __future__ import annotations

from typing import ClassVar


class DayflyError(Exception):
    """Base of all; `phase` says where in the life of a call it happened."""

    phase: ClassVar[str] = "plan"
    exit_code: ClassVar[int] = 1


class SpecError(DayflyError, ValueError):
    """What was asked for cannot be; nothing exists and nothing was spent."""

    exit_code = 2


class ConfigurationError(DayflyError):
    """A setting, a folder or a key of this computer is wrong; the message names it and its fix."""

    exit_code = 2


class PayloadError(DayflyError, TypeError):
    """The function or an argument cannot travel. `path` names the culprit ("argument 2, .sock")."""

    exit_code = 2

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class EngineMissing(DayflyError):
    """No Pulumi CLI could be found, installed or built; the message says what was tried."""

    exit_code = 69


class PluginMissing(EngineMissing):
    """The Pulumi plugin that makes a provider's resources is not there and could not be installed; nothing exists."""


class BackendFailed(DayflyError):
    """The state backend could not be asked, or what it holds of a run cannot be trusted; nothing was changed."""

    exit_code = 70


class BudgetExceeded(DayflyError):
    """The worst case is over `max_cost` or what is left of a budget, or the rate over `max_price`."""

    exit_code = 2


class PlanChanged(DayflyError):
    """Price, code, environment, resources or what is asked for are not those of the plan any more."""

    exit_code = 2


class PolicyDenied(DayflyError):
    """A policy of the function, the project or the user denies it; nothing exists. A policy raises it, too, to deny a plan."""

    exit_code = 77


class UnknownRun(DayflyError, LookupError):
    """No run of that id is in the journal, or the prefix fits more than one."""

    exit_code = 2


class RunBusy(DayflyError):
    """Another client, named by its pid, is using this run right now."""

    exit_code = 73


class KeeperMissing(DayflyError):
    """The keeper is not there and cannot be started: what a client leaves when it dies waits for the next command."""


class GcFrozen(DayflyError):
    """More would be destroyed than is usual, or a listing is not complete; nothing was destroyed."""

    phase = "teardown"
    exit_code = 75


class ProvisionFailed(DayflyError):
    """The stack did not come up.

    Attributes:
        kind: one of capacity, quota, auth, rate_limit, invalid, transient, unknown.
    """

    phase = "provision"
    exit_code = 70

    def __init__(self, message: str, kind: str = "unknown") -> None:
        super().__init__(message)
        self.kind = kind


class NoCapacity(ProvisionFailed):
    """Every Offer of the ladder was refused for want of capacity."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "capacity")


class ConnectFailed(DayflyError):
    """The machine never answered over SSH within the bound."""

    phase = "connect"
    exit_code = 70


class HostKeyMismatch(ConnectFailed):
    """The machine showed another host key than the pinned one; nothing was sent to it."""


class MachineUnfit(DayflyError):
    """A machine came up that cannot be used: the infrastructure's failure, never the function's, which was not started.

    Another machine is tried, up to `max_machines`; who sees this error had as many that were no better.

    Attributes:
        check: what it failed, e.g. "memory".
        found: what was found there, in words.
    """

    phase = "connect"
    exit_code = 70

    def __init__(self, message: str, *, check: str, found: str) -> None:
        super().__init__(message)
        self.check = check
        self.found = found


class GpuUnfit(MachineUnfit):
    """The machine's GPUs are not those of the Offer, or the driver cannot use them."""


class HostKeyNotRotated(MachineUnfit):
    """The machine still has the host key that came with its user_data, which others may have read."""


class KeptMachineLost(MachineUnfit):
    """The machine that was kept for this call is gone, or cannot be used; it is destroyed, and the call gets another."""


class EnvironmentFailed(DayflyError):
    """The Python environment could not be made; carries the resolver's own words."""

    phase = "environment"
    exit_code = 70


class DataFailed(DayflyError):
    """A Data argument cannot come to the machine: it has changed on the way, or there is no room for it."""

    phase = "data"
    exit_code = 70


class RunFailed(DayflyError):
    """The function did not give a value, and not by raising."""

    phase = "run"


class JobKilled(RunFailed):
    """A signal ended the job's process.

    Attributes:
        signal: the signal's number.
        out_of_memory: True where the kernel's out-of-memory killer was seen at work.
    """

    def __init__(self, message: str, signal: int = 0, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.signal = signal
        self.out_of_memory = out_of_memory


class JobExited(RunFailed):
    """The job's process ended with `code` and left no result (`sys.exit(3)`, `os._exit(3)`)."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class JobStopped(RunFailed):
    """The job was stopped on request."""


class DeadlineReached(RunFailed):
    """`max_runtime`, or the time that `max_cost` pays for, ended the job."""


class Detached(RunFailed):
    """This process has let go of it; `dayfly attach` brings its value, from any process."""


class TakenOver(Detached):
    """Another computer has taken the run in hand: that one gets its log and its value, and destroys its machine."""

    exit_code = 73


class GpuIdle(RunFailed):
    """A GPU stayed under `min_gpu_utilization` for its window, and the machine ended the job: no failure of the function's,
    and not tried again, since another machine would idle too."""


class CallTimeout(RunFailed, TimeoutError):
    """One call of a warm run took longer than its own timeout; the run goes on."""

    exit_code = 124


class InstanceLost(RunFailed):
    """The machine is gone, or could not be reached for too long.

    Attributes:
        state: what the provider said of it: "terminated", "preempted", "unhealthy"; "" where it was not the provider
            that gave it up.
    """

    def __init__(self, message: str, state: str = "") -> None:
        super().__init__(message)
        self.state = state


class ResultFailed(DayflyError):
    """The value cannot come back."""

    phase = "result"


class UnpicklableResult(ResultFailed):
    """The function's value, or the exception that it raised, cannot be pickled.

    Attributes:
        text: its repr, cut at 2,000 characters.
    """

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        self.text = text


class OutputsFailed(ResultFailed):
    """The machine went before all that the function had left in DAYFLY_OUTPUT_DIR was here; what it has given back is."""


class Forged(ResultFailed):
    """A frame is not authentic for this run; not one byte of it was unpickled."""


class LeakRisk(DayflyError):
    """It could not be proved that nothing of a run is left.

    Attributes:
        run: the run's id.
        resources: what may be alive, as the provider names it.
        usd_per_hour: what it costs while it lives.
        console: where a person can look.
        command: the command that finishes the teardown.
    """

    phase = "teardown"
    exit_code = 75

    def __init__(
        self,
        message: str,
        *,
        run: str,
        resources: tuple[str, ...] = (),
        usd_per_hour: float = 0.0,
        console: str = "",
        command: str = "",
    ) -> None:
        super().__init__(message)
        self.run = run
        self.resources = resources
        self.usd_per_hour = usd_per_hour
        self.console = console
        self.command = command
