"""Where runs are kept on this computer: folders, state backend, passphrase, and the engine's environment."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pwd
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from dayfly.errors import ConfigurationError, UnknownRun
from dayfly.infra import always
from dayfly.infra.home import home_path
from dayfly.infra.ingress import PRIVATE_VARIABLE
from dayfly.infra.providers.base import Provider
from dayfly.infra.run import is_id
from dayfly.stacks.budget import Budget
from dayfly.stacks.engine import Engine
from dayfly.stacks.settings import Settings

PROJECT = "dayfly"
_RESERVE_BYTES = 8 << 20
# Keys, journal, state and logs of one run come to a tenth of this.
_LEAST_FREE_BYTES = 4 << 20
# How this interpreter, which runs the program too, finds its packages and its own libraries.
_INTERPRETER = r"(?i)^(pythonpath|(dy)?ld_library_path)$"
# Where this computer keeps programs, settings and caches.
_PLACES = r"(?i)^(path|pythonpath|ld_library_path|xdg_.*|dayfly_engine_home|pulumi_automation_api_skip_.*)$"
# The engine's state may be in a cloud that the run's own provider is not.
_BACKENDS = {
    "s3://": ("AWS_",),
    "gs://": ("GOOGLE_", "CLOUDSDK_"),
    "azblob://": ("AZURE_",),
    "https://": ("PULUMI_ACCESS_TOKEN",),
    "awskms://": ("AWS_",),
    "gcpkms://": ("GOOGLE_",),
    "azurekeyvault://": ("AZURE_",),
    "hashivault://": ("VAULT_",),
}


@dataclass(frozen=True)
class Workspace:
    """One user's folder of runs, with the settings of its state.

    Attributes:
        home: the folder; DAYFLY_HOME overrides the platform's place.
        backend: URL of the Pulumi state backend.
        secrets_provider: "passphrase" or a KMS URL.
        owner: whose runs these are, in the tags of every resource.
        budgets: what all of them together may cost.
        private_ingress: a policy lets no machine be open to the public.
    """

    home: Path
    backend: str
    secrets_provider: str
    owner: str
    budgets: tuple[Budget, ...] = ()
    private_ingress: bool = False

    @classmethod
    def open(cls, settings: Settings) -> Workspace:
        """Makes the folders where they are missing and checks them.

        Raises:
            ConfigurationError: a folder belongs to someone else, others may write to it, or its name cannot be used.
        """
        home = home_path()
        if not str(home).isprintable() or '"' in str(home):
            # The configuration of an SSH server has no way to write them.
            raise ConfigurationError(
                f"{str(home)!r} has a quotation mark or a line break in its name: set DAYFLY_HOME to a folder without"
            )
        with explained(home):
            for folder in (
                home,
                home / "runs",
                home / "state",
                home / "slots",
                home / "cache",
                home / "making",
            ):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _check_private(folder)
        backend = settings.get("backend") or folder_url(home / "state")
        provider = settings.get("secrets_provider") or "passphrase"
        with explained(home):
            owner = _owner(settings.get("owner"), home)
        private = any(_denies_public(layer.value) for layer in settings.policies)
        return cls(home, backend, provider, owner, Budget.all_of(settings), private)

    @property
    def runs(self) -> Path:
        """Folder of all run directories."""
        return self.home / "runs"

    @property
    def pulumi_home(self) -> Path:
        """Where the engine keeps what is its own."""
        return self.home / "pulumi"

    def directory(self, run_id: str) -> Path:
        """The directory of one run.

        Raises:
            UnknownRun: it is no run's id; it might lead anywhere.
        """
        if not is_id(run_id):
            raise UnknownRun(f"{run_id!r} is not a run id; `dayfly ps --all` lists them")
        return self.runs / run_id

    @property
    def is_remote(self) -> bool:
        """Whether the state is kept where other computers reach it, too."""
        return urlsplit(self.backend).scheme != "file"

    @property
    def backend_name(self) -> str:
        """The backend as messages name it: without whatever its URL says beside the place."""
        backend = urlsplit(self.backend)
        return f"{backend.scheme}://{backend.hostname or ''}{backend.path}"

    @property
    def identity(self) -> str:
        """What other homes know this one by, made once: 128 random bits."""
        # Here and below: a plan that asks nobody has no use for what these load.
        from dayfly.stacks import journal

        file = self.home / journal.IDENTITY
        with explained(file):
            if not file.exists():
                _publish_random(file, 128)
            return file.read_text().strip()

    @property
    def passphrase_file(self) -> Path:
        """256 random bits, made once.

        Raises:
            ConfigurationError: the file is empty: the state of all runs would be readable.
        """
        file = self.home / "passphrase"
        with explained(file):
            if not file.exists():
                _publish_random(file, 256)
            text = file.read_text()
        if not text.strip():
            raise ConfigurationError(
                f"{file} is empty, and an empty passphrase protects nothing; put the old one back, or, if no"
                f" run is open (dayfly ps), delete the file"
            )
        return file

    def credentials(self, provider: Provider | None) -> dict[str, str]:
        """What this process has in its environment for a provider, and for the backend and the key of the state."""
        named = provider.environment if provider else ()
        used = f"{self.backend} {self.secrets_provider}"
        prefixes = tuple(p for scheme, ps in _BACKENDS.items() for p in ps if scheme in used)
        return {
            name: value
            for name, value in os.environ.items()
            if name in named or name.startswith(prefixes or ("\0",))
        }

    def bare_environment(self) -> dict[str, str]:
        """What a process needs to work here at all: no credential, and no setting of the project it was started in."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if always.is_for_all(name) or re.match(_PLACES, name)
        }
        return kept | {"DAYFLY_HOME": str(self.home)}

    def environment(
        self, engine: Engine, run_id: str, provider: Provider | None = None
    ) -> dict[str, str]:
        """The minimal environment of the engine for one run: no secret of this process that it does not need."""
        from dayfly.stacks import plugins

        shared = {
            name: value
            for name, value in os.environ.items()
            if always.is_for_all(name) or re.match(_INTERPRETER, name)
        }
        passed = shared | self.credentials(provider)
        plugins.link(self.pulumi_home)
        path = [
            str(engine.bin_dir),
            str(Path(sys.executable).parent),
            os.environ.get("PATH", os.defpath),
        ]
        if self.private_ingress:
            passed[PRIVATE_VARIABLE] = "1"
        return passed | {
            "PATH": os.pathsep.join(path),
            "DAYFLY_HOME": str(self.home),
            "DAYFLY_STACK": run_id,
            "PULUMI_BACKEND_URL": self.backend,
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(self.passphrase_file),
            "PULUMI_HOME": str(self.pulumi_home),
            "PULUMI_PYTHON_CMD": sys.executable,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_AUTOMATION_API": "true",
            # Hundreds of megabytes on the way to a machine, unasked: what is needed was installed before.
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS": "1",
            # Each of its commands lives for a second, a tenth of which went into collecting garbage.
            "GOGC": os.environ.get("GOGC", "400"),
            "NO_COLOR": "1",
        }

    def project_directory(self, run_id: str) -> Path:
        """The run's own folder for the CLI, with a Pulumi.yaml in it."""
        folder = self.directory(run_id) / "project"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "Pulumi.yaml").write_text(f"name: {PROJECT}\nruntime: python\n")
        return folder

    def operation_slot(
        self,
        give_up: Callable[[], bool] = lambda: False,
        wait_s: float = float("inf"),
        *,
        teardown: bool = False,
    ) -> AbstractContextManager[int | None]:
        """A place for an engine operation; see `slots.slot`."""
        from dayfly.stacks import slots

        return slots.slot(self.home / "slots", give_up, wait_s, teardown=teardown)

    def keep_reserve(self) -> None:
        """Sets space aside for the teardown of what is about to be created.

        Raises:
            ConfigurationError: there is none left.
        """
        file = self.home / "reserve"
        with explained(self.home):
            if not file.exists() or file.stat().st_size < _RESERVE_BYTES:
                file.touch(mode=0o600)
                _allocate(file, _RESERVE_BYTES)
            if shutil.disk_usage(self.home).free < _LEAST_FREE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def free_reserve(self) -> None:
        """Gives the reserved space back when the disk is full, so that a teardown can write its records."""
        if shutil.disk_usage(self.home).free < 2 * _RESERVE_BYTES:
            (self.home / "reserve").unlink(missing_ok=True)


def _denies_public(policies: object) -> bool:
    """What is no table is refused where policies are asked, which no teardown does."""
    return isinstance(policies, Mapping) and policies.get("public_ingress") is False


def _allocate(file: Path, size: int) -> None:
    """Takes the space without writing all of it, where the system can."""
    with file.open("wb") as opened:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, size)
        else:
            opened.write(bytes(size))


def folder_url(folder: Path) -> str:
    """A folder as the URL of a state backend: the engine reads it as a URL, so that "%", "#" and "?" are quoted."""
    return f"file://{quote(str(folder))}"


def slug(text: str, length: int = 40) -> str:
    """Letters, digits and hyphens, as every provider's tags take them."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:length].strip("-") or "unknown"


def _account() -> str:
    # Not from LOGNAME or USER: `su` leaves those of another account.
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"


def _owner(setting: str | None, home: Path) -> str:
    """The setting, else a name that was made once: the computer's own changes with the network that it comes to."""
    if setting:
        return slug(setting)
    file = home / "owner"
    if not file.exists():
        _publish(file, _new_owner(home))
    return slug(file.read_text())


def _new_owner(home: Path) -> str:
    import socket

    base = slug(f"{_account()}-{socket.gethostname()}", 31)
    # Two homes on one computer must not clean up after each other.
    return f"{base}-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}"


def _check_private(folder: Path) -> None:
    status = folder.lstat()
    if status.st_uid != os.getuid():
        raise ConfigurationError(
            f"{folder} belongs to another user (uid {status.st_uid}); set DAYFLY_HOME to a folder of your own"
        )
    if not folder.is_dir() or folder.is_symlink():
        raise ConfigurationError(
            f"{folder} must be a folder, not a link; set DAYFLY_HOME to a folder of your own"
        )
    if status.st_mode & 0o022:
        raise ConfigurationError(
            f"{folder} can be written by others, who could then run code as you: chmod 700 {folder}"
        )
    if status.st_mode & 0o077:
        folder.chmod(0o700)


def _publish_random(file: Path, bits: int) -> None:
    import secrets

    _publish(file, secrets.token_hex(bits // 8))


def _publish(file: Path, text: str) -> None:
    """Writes it aside and links it into place: of several processes one wins, and none sees half of it."""
    descriptor, aside = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(descriptor, "w") as output:
            output.write(text + "\n")
            output.flush()
            os.fsync(output.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(aside, file)
    finally:
        os.unlink(aside)  # noqa: PTH108  # mkstemp gives a text


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the system's refusals in the state folder into a message with the next step."""
    try:
        yield
    except OSError as error:
        space = "free some space there, or " if error.errno == errno.ENOSPC else ""
        raise ConfigurationError(
            f"{path}: {error.strerror}; {space}set DAYFLY_HOME to another folder"
        ) from error
