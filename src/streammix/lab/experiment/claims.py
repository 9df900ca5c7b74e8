"""Who trains which run, where workers share nothing but a folder.

FOLDER/NAME.1, NAME.2, ... are the claims on NAME; the last one counts. A claim appears whole or not at all, to one
worker only, by a hard link to a name that must be free. Nobody deletes or rewrites another's claim: whoever finds the
last one abandoned makes the next.
"""

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from streammix.lab.files import scratch_beside, write_durably

try:
    import fcntl
except ImportError:  # Windows: leases alone
    fcntl = None  # type: ignore[assignment]

LEASE = 120.0  # seconds without a sign of life after which another machine's claim counts as abandoned


class Lost(Exception):
    """Somebody else has taken the claim for abandoned: this worker must let go of its run."""


@dataclass
class Claim:
    """A claim that this process holds. The system lets go of its lock when the process ends, however it ends."""

    path: Path
    following: Path
    descriptor: int

    def refresh(self) -> None:
        """Give a sign of life.

        Raises:
            Lost: the claim is not the last one any more.
        """
        if self.following.exists():
            raise Lost(f"{self.path}: another worker has taken over")
        os.utime(self.path)

    def release(self) -> None:
        """Say that the run is free again, or done."""
        os.utime(self.path, (0, 0))
        os.close(self.descriptor)


def take(folder: Path, name: str, lease: float = LEASE) -> Claim | None:
    """A claim on `name`, or None where another worker has one.

    Args:
        folder: of all claims; on one file system for all workers.
        name: letters, digits and "_.=+-".
        lease: seconds without a sign of life, after which a claim from another machine counts as abandoned. On the same
            machine it does as soon as its process has ended.
    """
    generation, last = newest(folder, name)
    if last is not None and not abandoned(last, lease):
        return None
    path, following = (folder / f"{name}.{generation + more}" for more in (1, 2))
    scratch = scratch_beside(path)
    write_durably(scratch, (json.dumps({"machine": machine(), "process": os.getpid()}) + "\n").encode())
    descriptor = os.open(scratch, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    try:
        lock(descriptor)  # before the claim can be seen
        os.link(scratch, path)
    except FileExistsError:
        os.close(descriptor)
        return None
    finally:
        scratch.unlink()
    return Claim(path, following, descriptor)


def newest(folder: Path, name: str) -> tuple[int, Path | None]:
    """The number and the path of the last claim on `name`; 0 and None where there is none."""
    found = [int(end) for path in folder.glob(f"{name}.*") if (end := path.name.removeprefix(f"{name}.")).isdigit()]
    return (max(found), folder / f"{name}.{max(found)}") if found else (0, None)


def abandoned(claim: Path, lease: float) -> bool:
    """Whether a claim was released, its process has ended, or its machine has given no sign of life for `lease`."""
    status = claim.stat()
    if status.st_mtime == 0:
        return True
    if fcntl is not None and json.loads(claim.read_bytes())["machine"] == machine():
        descriptor = os.open(claim, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        try:
            return lock(descriptor)
        finally:
            os.close(descriptor)
    return now(claim.parent) - status.st_mtime > lease


def lock(descriptor: int) -> bool:
    """Lock an open file for this process; False where another has it, or where the system has no such locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def now(folder: Path) -> float:
    """The time by the clock that dates the folder's files: machines' own clocks may differ."""
    probe = scratch_beside(folder / "now")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def machine() -> str:
    """What tells this machine, since it was started, from others."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{platform.node()}/{boot.read_text().strip() if boot.exists() else ''}"
