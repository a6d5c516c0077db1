"""The environment of a sandbox: which variables a caller may set, and where it may start.

Both sides check: the worker for a good answer, the launcher because a worker may be anybody's.
"""

import posixpath
import re
from collections.abc import Mapping
from typing import Final

from protocol import launching, limits
from protocol.errors import ErrorCode, GatewayError

BASE: Final[Mapping[str, str]] = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": launching.WORK,
    "USER": "sandbox",
    "LOGNAME": "sandbox",
    "LANG": "C.UTF-8",
    "TMPDIR": "/tmp",  # noqa: S108 - inside
}
"""What every sandbox has; a caller's variables of these names win."""
PROXY: Final = ("127.0.0.1", 3128)
"""Where the proxy of a sandbox with a network listens, inside; where proxies have always been."""
PROXIED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), f"http://{PROXY[0]}:{PROXY[1]}"
    ),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1,::1"),
}
"""What one with a network has beside; curl(1), requests and pip read these."""
TERMINAL: Final = {"TERM": "xterm-256color", "SHELL": "/bin/sh"}
"""What one with a terminal has beside."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# What has the loader, the C library or an interpreter run or load something before the program that
# was asked for: names, and beginnings of names.
_REFUSED: Final = _words("""
    BASH_ENV ENV IFS SHELLOPTS BASHOPTS PS4 PROMPT_COMMAND CDPATH GLOBIGNORE PYTHONSTARTUP
    PYTHONHOME PYTHONPATH PYTHONINSPECT PYTHONBREAKPOINT PYTHONUSERBASE PYTHONEXECUTABLE
    PYTHONPLATLIBDIR PYTHONWARNINGS PYTHONCASEOK PYTHONPYCACHEPREFIX NODE_OPTIONS NODE_PATH
    NODE_REPL_EXTERNAL_MODULE PERL5OPT PERL5LIB PERLLIB PERL5DB PERLIO_DEBUG RUBYOPT RUBYLIB
    LUA_INIT LUA_PATH LUA_CPATH JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS _JAVA_OPTIONS CLASSPATH
    GCONV_PATH LOCPATH NLSPATH GETCONF_DIR HOSTALIASES LOCALDOMAIN RES_OPTIONS RESOLV_HOST_CONF
    MALLOC_TRACE MALLOC_CHECK_ GLIBC_TUNABLES TMPPREFIX ZDOTDIR FPATH GIT_SSH GIT_SSH_COMMAND
    GIT_EXTERNAL_DIFF GIT_EXEC_PATH GIT_PAGER GIT_EDITOR GIT_ASKPASS EDITOR VISUAL PAGER BROWSER
    OPENSSL_CONF OPENSSL_MODULES OPENSSL_ENGINES
""")
_REFUSED_BEGINNINGS: Final = ("LD_", "DYLD_", "BASH_FUNC_", "LUA_INIT_", "GIT_CONFIG")
_DIRECTORIES: Final = (launching.WORK, "/tmp")  # noqa: S108 - inside


def check_variables(variables: Mapping[str, str]) -> None:
    """Refuse variables that a sandbox cannot be given.

    Raises:
        GatewayError: INVALID_REQUEST, naming the variable.
    """
    for name, value in variables.items():
        if not _NAME.fullmatch(name):
            raise _refusal(f"env: {ascii(name)[:80]} is no name of a variable", "env")
        if name in _REFUSED or name.startswith(_REFUSED_BEGINNINGS):
            message = f"env: {name} would run or load something else; start that in argv instead"
            raise _refusal(message, f"env.{name}")
        if len(f"{name}={value}".encode()) > limits.SANDBOX_ARGUMENT_BYTES_MAX:
            longest = limits.SANDBOX_ARGUMENT_BYTES_MAX
            message = f"env: {name} and its value are longer than {longest} bytes; use a file"
            raise _refusal(message, f"env.{name}")
        if "\0" in value:
            raise _refusal(f"env: the value of {name} must not contain NUL", f"env.{name}")


def check_directory(path: str) -> None:
    """Refuse a directory to start in that is not in one of a sandbox's own.

    Raises:
        GatewayError: INVALID_REQUEST, naming the field.
    """
    inside = any(path == above or path.startswith(f"{above}/") for above in _DIRECTORIES)
    if not inside or posixpath.normpath(path) != path or "\0" in path:
        places = " or ".join(_DIRECTORIES)
        raise _refusal(f"cwd: an absolute path in {places} without . and .. is needed", "cwd")


def _refusal(message: str, field: str) -> GatewayError:
    return GatewayError(ErrorCode.INVALID_REQUEST, message, field=field)
