"""What a container may: the policy of the mode `docker`, as Docker's API takes it.

The same as `supervisor.launcher.bubblewrap` says with bwrap's arguments. What is not named here a
container has not. Reference: https://docs.docker.com/engine/api/v1.41/#operation/ContainerCreate.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from protocol import launching, limits
from supervisor.launcher.engine import Launch

HOSTNAME: Final = "sandbox"
GATEWAY_LABEL: Final = "openclaw.gateway"
LAUNCHER_LABEL: Final = "openclaw.launcher"
TENANT_LABEL: Final = "openclaw.tenant"
DOOR: Final = "/run/openclaw-door"
OPEN_FILES: Final = 1024
_SCRATCH_BYTES: Final = 64 * limits.MIB
_SCRATCH: Final = ("/tmp", "/var/tmp", "/run", "/dev/shm")  # noqa: S108 - inside
_SCRATCH_OPTIONS: Final = f"rw,nosuid,nodev,exec,mode=1777,size={_SCRATCH_BYTES}"
# The container's own: the init that reaps, and what it waits for.
_OWN_PROCESSES: Final = 2
# What starts a program in a container is a program with threads itself.
PIDS_MIN: Final = 24
# Docker's default, and the machine's devices.
_MASKED: Final = (
    *("/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys"),
    *("/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug"),
    *("/proc/scsi", "/sys"),
)
_READ_ONLY: Final = (*("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"),)


class Shape(NamedTuple):
    """What containers are alike in: one of them can stand for another.

    Attributes:
        tenant: Whose.
        uid: What runs as.
        gid: As `uid`.
        image: Its id.
        name: Of the directory at /work.
        caps: What it may use.
        file_bytes: The longest file it can write.
        cgroup: Where its own cgroup is made, as Docker calls it; None for Docker's usual place.
        door: Whether it has one, see `supervisor.launcher.docker_door`.
    """

    tenant: str
    uid: int
    gid: int
    image: str
    name: str
    caps: launching.Caps
    file_bytes: int
    cgroup: str | None
    door: bool = False


class Given(NamedTuple):
    """What all containers have alike.

    Attributes:
        labels: By which they are found again.
        runtime: None for the daemon's usual one.
        policy: Their system calls, a profile of Docker's; empty for Docker's own.
    """

    labels: Mapping[str, str]
    runtime: str | None
    policy: str


def shape_of(launch: Launch, image: str, cgroup: str | None) -> Shape:
    """Give the shape of the container that a sandbox needs."""
    return Shape(
        launch.tenant,
        launch.uid,
        launch.gid,
        image,
        launch.name,
        launch.caps,
        launch.file_bytes,
        cgroup,
        launch.door is not None,
    )


def configuration(
    shape: Shape,
    source: str,
    etc: Mapping[str, str],
    given: Given,
    door: str | None = None,
) -> dict[str, Any]:
    """Give what a container is created with.

    Its program does nothing: what runs is started in it later. Not a byte of the environment, the
    entry point or the health check of an image has a say.

    Args:
        shape: The container.
        source: Where the directory at /work is now; who starts it checks what was mounted.
        etc: The files of /etc that are the sandbox's own, and where they are outside.
        given: The rest.
        door: The path of its door outside, if it has one.
    """
    files = etc if door is None else {**etc, DOOR: door}
    return {
        "Image": shape.image,
        "Entrypoint": ["/bin/sleep"],
        "Cmd": ["infinity"],
        "User": f"{shape.uid}:{shape.gid}",
        "WorkingDir": "/",
        "Hostname": HOSTNAME,
        "Env": [],
        "Labels": {**given.labels, TENANT_LABEL: shape.tenant},
        "Healthcheck": {"Test": ["NONE"]},
        "NetworkDisabled": True,
        "HostConfig": _host_configuration(shape, source, files, given),
    }


def _host_configuration(
    shape: Shape, source: str, etc: Mapping[str, str], given: Given
) -> dict[str, Any]:
    caps = shape.caps
    security = ["no-new-privileges", *([f"seccomp={given.policy}"] if given.policy else ())]
    host: dict[str, Any] = {
        "NetworkMode": "none",
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "UsernsMode": "host",  # the tenant's uid is the one outside
        "Init": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": security,
        "MaskedPaths": list(_MASKED),
        "ReadonlyPaths": list(_READ_ONLY),
        "ReadonlyRootfs": True,
        "Tmpfs": dict.fromkeys(_SCRATCH, _SCRATCH_OPTIONS),
        "ShmSize": _SCRATCH_BYTES,
        "Mounts": [
            _bind(source, launching.WORK, read_only=False),
            *(_bind(outside, inside, read_only=True) for inside, outside in etc.items()),
        ],
        "Ulimits": [
            {"Name": name, "Soft": most, "Hard": most}
            for name, most in (
                ("core", 0),
                ("fsize", shape.file_bytes),
                ("memlock", 64 * limits.KIB),
                ("msgqueue", 0),
                ("nice", 0),
                ("nofile", OPEN_FILES),
                ("rtprio", 0),
            )
        ],
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
    }
    if caps.memory_bytes is not None:
        host |= {"Memory": caps.memory_bytes, "MemorySwap": caps.memory_bytes}
    if caps.cpus is not None:
        host["NanoCpus"] = round(caps.cpus * 1e9)
    if caps.pids is not None:
        host["PidsLimit"] = max(caps.pids, PIDS_MIN) + _OWN_PROCESSES
    if shape.cgroup is not None:
        host["CgroupParent"] = shape.cgroup
    if given.runtime is not None:
        host["Runtime"] = given.runtime
    return host


def _bind(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    # Of the older form, `Binds`, the daemon makes a source that is not there.
    return {
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": read_only,
        "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
    }
