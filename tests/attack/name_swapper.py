"""A tenant, or who owns its worker, that gives its directories other names all the time.

`python name_swapper.py UID FOLDER FIRST SECOND LINK TARGET` makes LINK, which leads to TARGET, and
then has FIRST and SECOND change places until its standard input ends; all names are below FOLDER.
It says how often.
"""

import ctypes
import os
import random
import select
import sys
import time
from pathlib import Path

EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h
AT_ONCE = 99
PAUSES = (0, 0.001, 0.005, 0.02)


def main() -> None:
    uid, folder, first, second, link, target = sys.argv[1:]
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    os.chdir(folder)
    Path(link).parent.mkdir(exist_ok=True)
    Path(link).symlink_to(target)
    swap = ctypes.CDLL(None, use_errno=True).renameat2
    here = os.open(".", os.O_PATH)
    names = os.fsencode(first), os.fsencode(second)
    count = 0

    def change_places() -> None:
        nonlocal count
        if swap(here, names[0], here, names[1], EXCHANGE) != 0:
            raise OSError(ctypes.get_errno(), first)
        count += 1

    sys.stdout.write("swaps\n")
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(AT_ONCE):
            change_places()
        # Then both ways for a while: a start that was let in must also find its way to the end.
        time.sleep(random.choice(PAUSES))
    if count % 2:
        change_places()  # as they were
    sys.stdout.write(f"{count}\n")


main()
