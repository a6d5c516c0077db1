"""Programs that tests of a machine need: there, installed, or said to be missing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping


def install(packages: Mapping[str, str]) -> bool:
    """Have what is needed; says whether it is there, and what to do where it is not.

    Args:
        packages: Debian's, by the program that each is needed for.
    """
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = sorted(
        package for program, package in packages.items() if not shutil.which(program, path=path)
    )
    if not missing:
        return True
    if os.geteuid() or not shutil.which("apt-get"):
        sys.stderr.write(f"install first: sudo apt-get install -y {' '.join(missing)}\n")
        return False
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run(
        [*apt, "-y", "--no-install-recommends", "install", *missing],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    return True
