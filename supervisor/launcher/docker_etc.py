"""Files of /etc that are the sandbox's, not its image's nor what Docker tells of the machine.

They are mounted from outside, a set for each uid: a container's own file system is read-only.
"""

import os
from pathlib import Path
from typing import Final

from protocol import launching
from supervisor.launcher.docker_profile import HOSTNAME

USER: Final = "sandbox"


def _contents(uid: int, gid: int) -> dict[str, str]:
    return {
        "group": f"root:x:0:\n{USER}:x:{gid}:\n",
        "hostname": f"{HOSTNAME}\n",
        "hosts": f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "passwd": (
            "root:x:0:0:root:/root:/usr/sbin/nologin\n"
            f"{USER}:x:{uid}:{gid}::{launching.WORK}:/bin/sh\n"
        ),
        "resolv.conf": "",
    }


class Etc:
    """Where they are outside.

    Args:
        folder: Nobody else's; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder
        self._written: Final[dict[tuple[int, int], dict[str, str]]] = {}

    def of(self, uid: int, gid: int) -> dict[str, str]:
        """Give those of a uid: path inside, path outside.

        Raises:
            OSError: they cannot be written.
        """
        found = self._written.get((uid, gid))
        if found is None:
            found = self._written[uid, gid] = self._write(uid, gid)
        return found

    def _write(self, uid: int, gid: int) -> dict[str, str]:
        folder = self._folder / f"{uid}-{gid}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths = {}
        for name, text in _contents(uid, gid).items():
            path = folder / name
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444), "w") as file:
                file.write(text)
            paths[f"/etc/{name}"] = str(path)
        return paths
