"""What the repository promises about itself: who imports whom, what is locked, what is unnamed."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("protocol", "supervisor", "worker", "cli")
LINES_MAX = 450
SYSTEM_FOLDERS = {
    "/",
    "/home",
    "/opt",
    "/srv",
    "/tmp",
    "/usr",
    "/usr/src",
    "/usr/local",
    "/var",
    "/var/lib",
}
NOT_OURS = {".git", ".venv", ".fuzz", ".hypothesis", "__pycache__"}
PROGRAMS = [*(path for path in (ROOT / "scripts").iterdir() if path.is_file()), ROOT / ".ci/run"]
SHELL = [path for path in PROGRAMS if path.suffix != ".py"]
LOCKS = sorted(ROOT.glob("requirements*.lock"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file of the checkout that is not made by a tool."""
    for folder, names, files in os.walk(ROOT):
        names[:] = [
            n for n in names if n not in NOT_OURS and not n.endswith(("_cache", ".egg-info"))
        ]
        for path in (Path(folder, file) for file in files):
            try:
                yield path, path.read_text()
            except UnicodeDecodeError:
                continue


# --- who imports whom


def imported(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """The full names that `source`, the text of `module`, imports: `from a import b` is `a.b`."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names += [alias.name for alias in node.names]
            case ast.ImportFrom():
                base = module.split(".")
                base = base[: len(base) - node.level + is_package] if node.level else []
                origin = ".".join([*base, *filter(None, [node.module])])
                names += [f"{origin}.{alias.name}".lstrip(".") for alias in node.names]
            case ast.Call(
                func=ast.Name("__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(str(name)), *_],
            ):
                names.append(name)
    return names


def may_import(module: str, name: str) -> bool:
    """Whether the import rule lets `module` import `name`, one of ours."""
    mine, theirs = module.split(".", 1)[0], name.split(".", 1)[0]
    if theirs in (mine, "protocol"):
        return True
    match mine, theirs:
        case "cli", "supervisor":
            # `openclaw gateway` is the one command that becomes a process of the tree.
            if module == "cli.serve" and name.startswith("supervisor.main."):
                return True
            return not {"main", "__main__"} & set(name.split("."))
        case "supervisor", "worker":
            return module.startswith("supervisor.zygote.") and name.startswith("worker.main")
    return False


def offences(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """The imports of `module` that the import rule refuses."""
    return [
        f"{module} imports {name}"
        for name in imported(source, module, is_package=is_package)
        if name.split(".", 1)[0] in PACKAGES and not may_import(module, name)
    ]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("protocol.frames", "import worker.main"),
        ("protocol.frames", "from supervisor import registry"),
        ("worker.store", "from supervisor.registry import Registry"),
        ("worker.store", "def f():\n    import cli.main"),
        ("supervisor.state", "import worker"),
        ("supervisor.state", "from worker.main import main"),
        ("supervisor.zygote.__main__", "from worker.store import Store"),
        ("supervisor.front.main", "import importlib\nimportlib.import_module('worker.main')"),
        ("cli.tenants", "from worker.main import main"),
        ("cli.tenants", "from supervisor.main import main"),
        ("cli.tenants", "from supervisor.zygote import __main__"),
        ("cli.tenants", "from .. import worker"),
    ],
)
def test_import_rule_refuses(module: str, source: str) -> None:
    assert len(offences(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "protocol.frames",
            "import msgspec\nfrom . import limits\nfrom protocol.errors import ProtocolError",
        ),
        ("worker.store.files", "from ..main import main\nfrom protocol import names"),
        ("supervisor.zygote.__main__", "from worker.main import main"),
        ("cli.serve", "from supervisor.main import Supervisor"),
        ("cli.tenants", "from supervisor.registry import Registry\nimport protocol.names"),
    ],
)
def test_import_rule_allows(module: str, source: str) -> None:
    assert offences(source, module) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package: str) -> None:
    assert modules(package)
    assert [
        offence
        for path in modules(package)
        for offence in offences(
            path.read_text(), module_name(path), is_package=path.stem == "__init__"
        )
    ] == []


def test_the_worker_is_imported_by_one_line_of_the_zygote() -> None:
    lines = [
        module_name(path)
        for path in modules("supervisor", "protocol", "cli")
        for name in imported(
            path.read_text(), module_name(path), is_package=path.stem == "__init__"
        )
        if name.split(".")[0] == "worker"
    ]
    assert len(lines) <= 1, lines


def test_only_apsw_opens_databases() -> None:
    assert [
        path
        for path in modules(*PACKAGES, "tests", "scripts")
        for name in imported(path.read_text(), module_name(path))
        if name.split(".")[0] in ("sqlite3", "_sqlite3")
    ] == []


def test_modules_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in modules(*PACKAGES)}
    assert {path: lines for path, lines in lengths.items() if lines >= LINES_MAX} == {}


# --- what is locked


def requirements(lock: str) -> list[str]:
    """The logical lines of a lock file: comments left out, continued lines joined."""
    lines = [line for line in lock.splitlines() if not line.lstrip().startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def pinned(lock: Path) -> dict[str, str]:
    """Name and version of each requirement; any line but `name==version --hash …` fails."""
    exact = re.compile(r"([a-z0-9-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})+)")
    matches = [
        exact.fullmatch(line) or pytest.fail(line) for line in requirements(lock.read_text())
    ]
    return {match[1]: match[2] for match in matches}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_has_hashes_and_no_address(lock: Path) -> None:
    assert pinned(lock)
    assert "://" not in lock.read_text()
    assert not re.search(r"(^|\s)(/|\.\.?/)", lock.read_text())


def test_locks_hold_what_pyproject_asks_for() -> None:
    def names(wanted: list[str]) -> set[str]:
        return {re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() for requirement in wanted}

    groups = PYPROJECT["dependency-groups"]
    runtime, dev, fuzz = (
        pinned(ROOT / f"requirements{kind}.lock") for kind in ("", "-dev", "-fuzz")
    )
    assert names([*PYPROJECT["project"]["dependencies"], *groups["build"]]) <= runtime.keys()
    assert names(groups["dev"]) <= dev.keys()
    assert runtime.items() <= dev.items()
    assert names(groups["fuzz"]) == fuzz.keys()


def test_build_group_is_what_the_build_requires() -> None:
    assert PYPROJECT["dependency-groups"]["build"] == PYPROJECT["build-system"]["requires"]


# --- how it is checked


def unexplained(pyproject: str) -> list[str]:
    """The entries of lists that switch a check off and have no comment on their line."""
    lists = re.findall(
        r'^(?:ignore|filterwarnings|"[^"\n]*\*\*") = \[\n(.*?)^\]',
        pyproject,
        re.DOTALL | re.MULTILINE,
    )
    entries = [line.strip() for text in lists for line in text.splitlines()]
    return [
        entry for entry in entries if not re.search(r'",? +# \w', entry) and entry != '"error",'
    ]


def test_every_ignored_rule_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert unexplained(text) == []
    for rule in PYPROJECT["tool"]["ruff"]["lint"]["ignore"]:
        bare = re.sub(rf'("{rule}",).*', r"\1", text)
        assert unexplained(bare) == [f'"{rule}",']


# --- what a fresh machine finds


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_programs_can_be_started(program: Path) -> None:
    text = program.read_text()
    if program.suffix == ".py" and not text.startswith("#!"):
        return  # started by name through the interpreter
    assert os.access(program, os.X_OK)
    assert re.match(r"#!/(bin/sh|usr/bin/env (bash|python3))\n(# \S|\"\"\"\S)", text)


@pytest.mark.parametrize("program", SHELL, ids=lambda path: path.name)
def test_shell_programs_stop_at_errors_and_name_no_host(program: Path) -> None:
    text = program.read_text()
    assert re.search(r"^set -(eu|euo pipefail|uo pipefail)$", text, re.MULTILINE)
    assert re.findall(r"https?://(?!127\.0\.0\.1|localhost|\$)\S+", text) == []


def package_sources() -> set[str]:
    """The hosts and folders this machine's pip is told to take packages from."""
    settings = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    values = re.findall(
        r"\.(?:index-url|extra-index-url|find-links|trusted-host)='(.*)'",
        settings.replace("\\n", " "),
    )
    places = {urlsplit(place) for value in values for place in value.split()}
    return {place.hostname or place.path for place in places} - {"pypi.org", "", "/"}


def neighbours() -> set[str]:
    """The paths beside the checkout, where that folder is somebody's own and not the system's."""
    parent = ROOT.parent
    if str(parent) in SYSTEM_FOLDERS or not os.access(parent, os.R_OK):
        return set()
    return {str(path) for path in parent.iterdir()}


def test_nothing_names_the_machine_it_was_written_on() -> None:
    private = neighbours() | package_sources()
    assert [
        f"{path.relative_to(ROOT)} names {place}"
        for path, text in texts()
        for place in private
        if re.search(rf"(?<![\w.-]){re.escape(place)}(?![\w-])", text)
    ] == []


# Who starts a program, and how: everything else asks one of these.
STARTS_PROGRAMS = {
    "supervisor.child": {"os.posix_spawn"},
    "supervisor.launcher.stem": {"os.fork", "os.execve"},
    "supervisor.launcher.bwrap": {"subprocess"},
    "supervisor.launcher.docker_image": {"subprocess"},
    "supervisor.launcher.doorway": {"os.execvp"},  # inside a sandbox
}
_STARTING = re.compile(r"os\.(?:fork|forkpty|exec\w+|spawn\w+|posix_spawnp?|system|popen)\Z")


def starts(source: str) -> set[str]:
    """What a module's text can start a program by."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(name)):
                found |= {name, *(f"{name}.{alias.name}" for alias in node.names)}
            case ast.Attribute(value=ast.Name("os"), attr=name):
                found.add(f"os.{name}")
            case ast.Attribute(attr=name) if name.startswith("create_subprocess"):
                found.add(name)
    modules = {"subprocess", "multiprocessing", "pty", "concurrent.futures.process"}
    return {
        name
        for name in found
        if name in modules or _STARTING.match(name) or name.startswith("create_subprocess")
    }


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess",
        "from subprocess import run",
        "from os import execve",
        "import os\nos.system('x')",
        "import asyncio\nasyncio.create_subprocess_exec('x')",
    ],
)
def test_a_start_is_found(source: str) -> None:
    assert starts(source)


def test_programs_are_started_in_known_places() -> None:
    """A worker starts none at all; what a tenant runs goes through the launcher's stem."""
    found = {
        module_name(path): how
        for package in ("protocol", "supervisor", "worker")
        for path in (ROOT / package).rglob("*.py")
        if (how := starts(path.read_text()))
    }
    assert found == STARTS_PROGRAMS
