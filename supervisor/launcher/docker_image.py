"""A base image for Docker sandboxes, made of this machine's Python, coreutils and a few more.

What goes in is listed here; each program brings its libraries, as `ldd` names them, and every link
on the way. The archive is one that `docker load` takes (OCI calls it the Docker image format v1.2),
and depends on nothing but the files: the same machine gives the same image, with the same id.
"""

import hashlib
import io
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final, NamedTuple

PATH: Final = "/usr/local/bin:/usr/bin:/bin"

# fmt: off
_COREUTILS: Final = (
    "[", "arch", "b2sum", "base32", "base64", "basename", "basenc", "cat", "chgrp", "chmod",
    "chown", "cksum", "comm", "cp", "csplit", "cut", "date", "dd", "df", "dir", "dircolors",
    "dirname", "du", "echo", "env", "expand", "expr", "factor", "false", "fmt", "fold", "groups",
    "head", "id", "install", "join", "link", "ln", "logname", "ls", "md5sum", "mkdir", "mkfifo",
    "mknod", "mktemp", "mv", "nice", "nl", "nohup", "nproc", "numfmt", "od", "paste", "pathchk",
    "pr", "printenv", "printf", "ptx", "pwd", "readlink", "realpath", "rm", "rmdir", "seq",
    "sha1sum", "sha224sum", "sha256sum", "sha384sum", "sha512sum", "shred", "shuf", "sleep", "sort",
    "split", "stat", "stdbuf", "stty", "sum", "sync", "tac", "tail", "tee", "test", "timeout",
    "touch", "tr", "true", "truncate", "tsort", "tty", "uname", "unexpand", "uniq", "unlink",
    "vdir", "wc", "who", "whoami", "yes",
)
_REQUIRED: Final = ("sh", "bash", "cat", "env", "ls", "sleep", "stat", "true")
_OTHERS: Final = (
    "awk", "clear", "cmp", "diff", "egrep", "fgrep", "find", "free", "getconf", "getent", "grep",
    "gunzip", "gzip", "hostname", "kill", "less", "mawk", "more", "pgrep", "pkill", "ps", "reset",
    "script", "sed", "setsid", "tar", "top", "tput", "vi", "vim", "which", "xargs", "zcat",
)
# fmt: on
_ALSO: Final = (
    *("/bin", "/sbin", "/lib", "/lib64"),
    "/etc/os-release",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/vim/vimrc",
    "/usr/share/vim/vim90/defaults.vim",
)
_TERMINALS: Final = (
    *("ansi", "dumb", "linux", "screen", "screen-256color", "tmux", "tmux-256color"),
    *("vt100", "vt220", "xterm", "xterm-256color"),
)
# What of Python's library is for those who build, test or install Python.
_NOT_OF_PYTHON: Final = frozenset(
    {"ensurepip", "idlelib", "lib2to3", "site-packages", "dist-packages", "test", "tests"}
)
_DIRECTORIES: Final = {
    "/dev": 0o755,
    "/proc": 0o755,
    "/root": 0o755,
    "/run": 0o1777,  # what is mounted there takes the mode of what it hides
    "/sys": 0o755,
    "/tmp": 0o1777,  # noqa: S108 - inside
    "/var/tmp": 0o1777,  # noqa: S108 - inside
    "/work": 0o755,
}
_TEXTS: Final = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "/etc/shells": "/bin/sh\n/bin/bash\n",
}


class ImageError(Exception):
    """No image can be made of this machine; the message names what is missing."""


class Archive(NamedTuple):
    """An image, ready for `docker load`.

    Attributes:
        image_id: `sha256:…` of its configuration: what an operator pins.
        files: How many files, directories and links are in it.
        data: The archive, at its start; the caller's to close.
    """

    image_id: str
    files: int
    data: IO[bytes]


class _Tree:
    """The image's paths: what each is of, symbolic links kept as they are on this machine."""

    def __init__(self) -> None:
        self._directories: dict[str, int] = dict.fromkeys(("/etc", "/usr", "/var"), 0o755)
        self._links: dict[str, str] = {}
        self.files: dict[str, Path] = {}
        for path, mode in _DIRECTORIES.items():
            self._directories[path] = mode

    def add(self, path: str, depth: int = 0) -> None:
        """Add a file that is there, with the directories and links on the way to it."""
        if depth > 40:  # noqa: PLR2004 - Linux's MAXSYMLINKS
            raise ImageError(f"{path}: too many symbolic links")
        parts = Path(os.path.normpath(path)).parts[1:]
        at = ""
        for number, part in enumerate(parts):
            here = f"{at}/{part}"
            if Path(here).is_symlink():
                target = str(Path(here).readlink())
                self._links[here] = target
                rest = "/".join(parts[number + 1 :])
                self.add(os.path.join(at or "/", target, rest).rstrip("/"), depth + 1)  # noqa: PTH118
                return
            if number + 1 == len(parts) and not Path(here).is_dir():
                self.files[here] = Path(here)
            else:
                self._directories.setdefault(here, 0o755)
            at = here

    def link(self, path: str, target: str) -> None:
        """Add a link that is not on this machine."""
        if path not in self.files:
            self._links.setdefault(path, target)

    def members(self) -> Iterator[tuple[tarfile.TarInfo, bytes | Path]]:
        """Give what goes into the layer, parents first, with root as the owner of everything."""
        texts = {path: text.encode() for path, text in _TEXTS.items()}
        for path in sorted({*self._directories, *self._links, *self.files, *texts}):
            member = tarfile.TarInfo(path.lstrip("/"))
            content: bytes | Path = b""
            if path in texts:
                content, member.size, member.mode = texts[path], len(texts[path]), 0o644
            elif path in self._links:
                member.type, member.linkname, member.mode = (
                    tarfile.SYMTYPE,
                    self._links[path],
                    0o777,
                )
            elif path in self.files:
                content = self.files[path]
                status = content.stat()
                # Compiled Python is good for the time of its source only.
                member.size, member.mtime = status.st_size, int(status.st_mtime)
                member.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
            else:
                member.type, member.mode = tarfile.DIRTYPE, self._directories[path]
            yield member, content


def build(tag: str) -> Archive:
    """Make the image.

    Args:
        tag: What Docker calls it, `name:tag`; no part of what the id is made of.

    Raises:
        ImageError: a program that it needs is not on this machine, or a file cannot be read.
    """
    tree = _gather()
    with tempfile.TemporaryFile() as layer:
        digest, count = _write_layer(tree, layer)
        config = _config(digest)
        image_id = hashlib.sha256(config).hexdigest()
        manifest = [{"Config": f"{image_id}.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]
        data = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
            size = layer.seek(0, os.SEEK_END)
            layer.seek(0)
            _put(archive, f"{image_id}.json", config)
            member = tarfile.TarInfo("layer.tar")
            member.size = size
            archive.addfile(member, layer)
            _put(archive, "manifest.json", json.dumps(manifest).encode())
        data.seek(0)
    return Archive(f"sha256:{image_id}", count, data)


def _put(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _config(layer: str) -> bytes:
    """Give the image's configuration (OCI image specification, `config.md`)."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    config = {
        "architecture": machine,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Env": [f"PATH={PATH}"], "Cmd": ["/bin/sh"], "WorkingDir": "/work"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "openclaw"}],
    }
    return json.dumps(config, sort_keys=True).encode()


def _write_layer(tree: _Tree, layer: io.BufferedRandom) -> tuple[str, int]:
    count = 0
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in tree.members():
            count += 1
            if isinstance(content, bytes):
                archive.addfile(member, io.BytesIO(content))
                continue
            try:
                with content.open("rb") as file:
                    archive.addfile(member, file)
            except OSError as error:
                raise ImageError(f"{content} cannot be read: {error.strerror}") from error
    layer.seek(0)
    return hashlib.file_digest(layer, "sha256").hexdigest(), count


def _gather() -> _Tree:
    tree = _Tree()
    missing = [name for name in _REQUIRED if shutil.which(name, path=PATH) is None]
    if missing:
        raise ImageError(f"not on this machine: {', '.join(missing)}")
    names = {*_REQUIRED, *_COREUTILS, *_OTHERS}
    found = [shutil.which(name, path=PATH) for name in sorted(names)]
    programs = [path for path in found if path]
    python = os.path.realpath(sys._base_executable)  # type: ignore[attr-defined] # noqa: SLF001 - of the venv's interpreter
    library = sorted(_python_library())
    for path in [*programs, python, *library, *filter(os.path.exists, _ALSO), *_terminals()]:
        tree.add(path)
    tree.link("/usr/bin/python3", python)
    tree.link("/usr/bin/python", "python3")
    if not Path("/bin").is_symlink():
        tree.link("/bin/python3", python)
    objects = {str(path) for path in tree.files.values() if _is_elf(path)}
    for path in sorted(_libraries(objects)):
        tree.add(path)
    return tree


def _python_library() -> Iterator[str]:
    """Give the files of Python's standard library."""
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    for root in {
        sysconfig.get_path(
            name,
            vars=base
            | {"installed_base": sys.base_prefix, "installed_platbase": sys.base_exec_prefix},
        )
        for name in ("stdlib", "platstdlib")
    }:
        for folder, names, files in os.walk(root):
            names[:] = sorted(
                n for n in names if n not in _NOT_OF_PYTHON and not n.startswith("config-")
            )
            for file in files:
                path = os.path.join(folder, file)  # noqa: PTH118 - tens of thousands of them
                if os.path.isfile(path):  # noqa: PTH113
                    yield path


def _terminals() -> Iterator[str]:
    for folder in ("/lib/terminfo", "/usr/share/terminfo", "/etc/terminfo"):
        for name in _TERMINALS:
            if os.path.isfile(path := f"{folder}/{name[0]}/{name}"):  # noqa: PTH113
                yield path


def _is_elf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _libraries(objects: Iterable[str]) -> set[str]:
    """Give the shared libraries that these files need, and theirs, and the loader."""
    done = subprocess.run(
        [shutil.which("ldd", path=PATH) or "/usr/bin/ldd", *sorted(objects)],
        capture_output=True,
        text=True,
        env={"PATH": PATH, "LC_ALL": "C"},
        check=False,  # it fails where one of them is static
    )
    paths = (word for line in done.stdout.splitlines() for word in line.split())
    return {path for path in paths if path.startswith("/") and ".so" in path and path[-1] != ":"}
