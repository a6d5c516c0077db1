"""Runs in a sandbox: does what ordinary programs do, and says as JSON how each ended.

The standard library alone. Programs that a machine has not are not tried.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

HOME = Path("/work/programs")
# A script for the shell, and what it says.
PROGRAMS = {
    "bash": ("bash -c 'set -m; sleep 9 & kill -STOP %1; kill -CONT %1; kill %1; echo $?'", "0"),
    "tar": ("mkdir t; echo x > t/x; tar -czf t.tgz t && rm -r t && tar -xzf t.tgz && cat t/x", "x"),
    "git": (
        """
        git init -q r && cd r && echo x > x && git add x &&
        git -c user.name=a -c user.email=b commit -qm first && git log --format=%s
        """,
        "first",
    ),
    "gcc": ("echo 'int main(void) { return 7; }' > m.c && gcc -o m m.c && (./m; echo $?)", "7"),
    "make": ("echo 'all: ; @echo made' > Makefile && make -s", "made"),
    "perl": ("perl -e 'print 6 * 7'", "42"),
    "node": (
        """
        node -e 'require("child_process").exec("echo " +
        Object.keys(require("os").networkInterfaces()), (e, o) => console.log(o.trim()))'
        """,
        "lo",
    ),
    "vi": ("vi -u NONE -es -c 'normal ihello' -c wq v; cat v", "hello"),
    "sqlite3": ("sqlite3 d 'create table t(a); insert into t values(1); select a from t'", "1"),
    "nice": ("nice -n 5 timeout 5 setsid nohup printf x", "x"),
    "flock": ("flock l echo locked", "locked"),
    "mkfifo": ("mkfifo f; (echo through > f &) ; cat f", "through"),
    "python3": ("python3 p.py", "a [2, 4] [6]"),
}
PYTHON = """
import asyncio, concurrent.futures, multiprocessing, sqlite3, subprocess, tempfile

async def echo():
    process = await asyncio.create_subprocess_exec("echo", "a", stdout=subprocess.PIPE)
    return (await process.communicate())[0].decode().strip()

def double(x):
    return 2 * x

if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        doubled = pool.map(double, [1, 2])
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        threaded = list(threads.map(double, [3]))
    with tempfile.NamedTemporaryFile() as file:
        connection = sqlite3.connect(file.name)
        connection.execute("pragma journal_mode=wal")
        connection.execute("create table t(a)")
    print(asyncio.run(echo()), doubled, threaded)
"""


def run(script: str) -> tuple[int, str]:
    done = subprocess.run(["/bin/sh", "-c", script], cwd=HOME, capture_output=True, check=False)
    return done.returncode, (done.stdout or done.stderr).decode(errors="replace").strip()


def main() -> None:
    HOME.mkdir()
    (HOME / "p.py").write_text(PYTHON)
    there = [name for name in PROGRAMS if shutil.which(name)]
    json.dump({name: run(PROGRAMS[name][0]) for name in there}, sys.stdout)


if __name__ == "__main__":
    main()
