"""Where the gateway's cgroups are: below its own, in one that it is given, or below the root.

The gateway has one called `openclaw-<gateway>`, with a leaf `gateway` for itself and the processes
that all tenants share, and `tenant-<id>` for each tenant.
"""

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from supervisor.caps import files, v1
from supervisor.caps.group import Group
from supervisor.caps.v1 import Cgroup1
from supervisor.caps.v2 import Cgroup2

GATEWAY: Final = "gateway"
GATEWAY_WEIGHT: Final = 1000
"""What all tenants need goes before what any of them does."""
WEIGHT_BESIDE_PROCESSES: Final = 1000
"""Of all together, where every single process beside them weighs 100."""
Cgroup = Cgroup1 | Cgroup2
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


_PROCESS: Final = Path("/proc/self")


class Mount(NamedTuple):
    """A tree of cgroups, or the part of it from `root` on, that is mounted at `point`."""

    kind: str
    point: Path
    root: str
    options: frozenset[str]


class UnusableError(Exception):
    """There are no cgroups for the gateway; the message says why."""


class Base(NamedTuple):
    """Where the gateway may make its cgroup, and where it is itself now."""

    group: Cgroup
    home: Cgroup

    def claim(self, gateway: str) -> "Claimed":
        """Make the gateway's cgroup, and move this process into its leaf.

        What an earlier gateway of that name has left is ended and removed.

        Args:
            gateway: From `name_of`.

        Raises:
            OSError: the system refuses.
        """
        self.sweep(gateway)
        root = self.group.make(_directory_name(gateway))
        leaf = root.make(GATEWAY)
        claimed = Claimed(root, self)
        try:
            # This process may be in `group`, which is to have none before it has limits to share.
            leaf.adopt(os.getpid())
            self.group.share()
            root.share()
            leaf.weigh(GATEWAY_WEIGHT)
            if root.VERSION == 1:
                root.weigh(WEIGHT_BESIDE_PROCESSES)
        except BaseException:
            with contextlib.suppress(OSError):
                claimed.leave()
            raise
        return claimed

    def sweep(self, gateway: str) -> None:
        """End and remove what a gateway of that name has left; one that runs included.

        Raises:
            OSError: the system refuses.
        """
        left = self.group.at(_directory_name(gateway))
        if any(directory.exists() for directory in left.directories):
            self.group.make(left.name).kill()
            left.remove()


class Claimed(NamedTuple):
    """The gateway's cgroup, with the gateway in it."""

    root: Cgroup
    base: Base

    def tenant(self, tenant: str) -> Group:
        """Give a tenant's cgroup, made if it is not there."""
        return self.root.child(f"tenant-{tenant}")

    def path_of(self, tenant: str) -> str:
        """Give what `reopen` opens a tenant's cgroup by, once it is there."""
        return self.root.at(f"tenant-{tenant}").path

    def leave(self) -> None:
        """Go back to where the gateway was; end what is left, and remove everything.

        Raises:
            OSError: the system refuses.
        """
        for child in self.root.children():
            if child.name != GATEWAY:
                child.kill()
                child.remove()
        self.root.keep()
        if self.base.group.path == self.base.home.path:
            self.base.group.keep()
        self.base.home.adopt(os.getpid())
        self.root.kill()
        self.root.remove()


def _directory_name(gateway: str) -> str:
    return f"openclaw-{gateway}"


def name_of(state_root: Path) -> str:
    """Give what the gateway of a state root is called, for as long as that is where it is."""
    return hashlib.sha256(os.fsencode(state_root.resolve())).hexdigest()[:12]


def reopen(path: str) -> Group:
    """Give the cgroup that another process calls `path`."""
    return Cgroup1.named(path) if "=" in path else Cgroup2(Path(path))


def of(pid: int) -> Group | None:
    """Give the cgroup that a process is in; None where none is mounted that says what it uses.

    Raises:
        OSError: there is no such process.
    """
    mounts = read_mounts(Path("/proc/self/mountinfo").read_text())
    own = read_own(Path(f"/proc/{pid}/cgroup").read_text())
    old = _v1(mounts, own)
    if old is not None:
        return old.group
    directory = directory_of(mounts, "cgroup2", "", own.get(""))
    return None if directory is None else Cgroup2(directory)


def name_in_tree(path: str) -> str:
    """Give what the kernel and a container engine call a cgroup, from the root of its tree on.

    Of version 1 it is the name in memory's tree.

    Args:
        path: What another process calls it.

    Raises:
        UnusableError: it is in no tree that is mounted here.
    """
    parts = (
        dict(part.split("=", 1) for part in path.split(":")) if "=" in path else {"memory": path}
    )
    directory = Path(parts["memory"])
    every = read_mounts(Path("/proc/self/mountinfo").read_text())
    mounts = [mount for mount in every if directory.is_relative_to(mount.point)]
    if not mounts:
        msg = f"{directory} is in no tree of cgroups that is mounted here"
        raise UnusableError(msg)
    nearest = max(mounts, key=lambda mount: len(mount.point.parts))
    return str(Path(nearest.root, directory.relative_to(nearest.point)))


def find(setting: str) -> Base:
    """Say where the gateway may make its cgroup; changes nothing.

    Args:
        setting: `caps.cgroup` of the configuration.

    Raises:
        UnusableError: nowhere.
    """
    if setting == "none":
        msg = "caps.cgroup is none"
        raise UnusableError(msg)
    try:
        mounts = read_mounts(_PROCESS.joinpath("mountinfo").read_text())
        own = read_own(_PROCESS.joinpath("cgroup").read_text())
        if setting == "auto":
            found = _v1(mounts, own) or _v2(mounts, own)
        else:
            found = _given(Path(setting), mounts, own)
    except OSError as error:
        raise UnusableError(str(error)) from error
    _check(found.group)
    return found


def _check(group: Cgroup) -> None:
    for directory in group.directories:
        files_needed = ("", "cgroup.procs", *group.SWITCHES)
        for name in files_needed:
            if not os.access(directory / name, os.W_OK):
                msg = f"{directory / name} cannot be written by uid {os.geteuid()}"
                raise UnusableError(msg)
    missing = group.NEEDED - group.controllers
    if missing:
        msg = f"{group.path} may not limit {' and '.join(sorted(missing))}"
        raise UnusableError(msg)


def _v1(mounts: list[Mount], own: dict[str, str]) -> Base | None:
    found = {}
    for controller in v1.CONTROLLERS:
        directory = directory_of(mounts, "cgroup", controller, own.get(controller))
        if directory is not None:
            found[controller] = directory
    if not found.keys() >= Cgroup1.NEEDED:
        return None
    group = Cgroup1(found)
    return Base(group, group)


def _v2(mounts: list[Mount], own: dict[str, str]) -> Base:
    home = _home(mounts, own)
    top = next(mount.point for mount in mounts if mount.kind == "cgroup2")
    alone = files.processes([home.directory]) == {os.getpid()}
    if alone or home.directory == top:
        return Base(home, home)
    if os.geteuid() == 0:
        return Base(Cgroup2(top), home)
    msg = (
        f"there are other processes in its cgroup {home.path}: start it in one of its own "
        "(systemd: Delegate=yes), or name one in caps.cgroup"
    )
    raise UnusableError(msg)


def _given(directory: Path, mounts: list[Mount], own: dict[str, str]) -> Base:
    if not (directory / "cgroup.controllers").exists():
        msg = f"caps.cgroup: {directory} is no cgroup of version 2"
        raise UnusableError(msg)
    return Base(Cgroup2(directory), _home(mounts, own))


def _home(mounts: list[Mount], own: dict[str, str]) -> Cgroup2:
    directory = directory_of(mounts, "cgroup2", "", own.get(""))
    if directory is None:
        msg = "this process is in no cgroup that is mounted here"
        raise UnusableError(msg)
    return Cgroup2(directory)


def directory_of(mounts: list[Mount], kind: str, controller: str, path: str | None) -> Path | None:
    """Give where a cgroup is mounted; None if it is not."""
    for mount in mounts:
        if path is None or mount.kind != kind:
            continue
        if controller and controller not in mount.options:
            continue
        if Path(path).is_relative_to(mount.root):
            return mount.point / Path(path).relative_to(mount.root)
    return None


def read_own(text: str) -> dict[str, str]:
    """Give a process's cgroup by controller, that of version 2 by "" (its `cgroup`, cgroups(7))."""
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def read_mounts(text: str) -> list[Mount]:
    """Give the mounted trees of cgroups of a `mountinfo` (proc_pid_mountinfo(5))."""
    found = []
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            root, point = (_ESCAPED.sub(_unescape, text) for text in fields.split(" ")[3:5])
            found.append(Mount(kind, Path(point), root, frozenset(options.split(","))))
    return found


def _unescape(found: re.Match[str]) -> str:
    return chr(int(found[1], 8))
