"""Closes every door it can and then becomes the program: `jail.py FOLDER CPU_S MEMORY_MB FILE_MB PROCESSES`.

Started by `sandbox.py` only. Exits with 97 and a sentence when a door does not close.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import NoReturn

__all__ = ["main"]

REFUSED = 97
NEW_USER, NEW_NET, NEW_PID, NEW_IPC = 0x10000000, 0x40000000, 0x20000000, 0x08000000
NO_NEW_PRIVILEGES, DIE_WITH_PARENT = 38, 1
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
READ = 0b1101  # execute, read files, list folders
EVERYTHING = (1 << 15) - 1  # all rights on files of Landlock's third version, truncation included
FILES = 0b100000000000110  # of these, the ones a single file can have: write, read, truncate

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Close the doors, start the program, end as it ended."""
    folder, *limits = sys.argv[1:]
    try:
        _leave_the_network()
        child = os.fork()
        if child == 0:
            _become_the_program(folder, *map(int, limits))
    except OSError as error:
        child = _refuse(str(error))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _leave_the_network() -> None:
    """New namespaces for network, processes and shared memory; a new user first, where one is needed."""
    wanted = NEW_NET | NEW_PID | NEW_IPC
    if _libc.unshare(NEW_USER | wanted) and _libc.unshare(wanted):
        raise OSError(ctypes.get_errno(), f"namespaces: {os.strerror(ctypes.get_errno())}")


def _become_the_program(folder: str, cpu_s: int, memory_mb: int, file_mb: int, processes: int) -> None:
    try:
        _libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        _limit(resource.RLIMIT_CPU, cpu_s)
        _limit(resource.RLIMIT_AS, memory_mb * 2**20)
        _limit(resource.RLIMIT_FSIZE, file_mb * 2**20)
        _limit(resource.RLIMIT_NOFILE, 32)
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_NPROC, processes)
        _close_the_files(folder)
        os.execve(  # noqa: S606  this is the point: everything is closed
            sys.executable, [sys.executable, "-I", "-S", "program.py"], {}
        )
    except OSError as error:
        _refuse(str(error))


def _limit(what: int, most: int) -> None:
    resource.setrlimit(what, (most, most))


def _close_the_files(folder: str) -> None:
    """Landlock: read Python and the system's libraries, write in the folder, nothing else."""
    if _libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs was refused")
    version = _libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 3:
        raise OSError(0, f"Landlock version {version}, 3 is needed")
    rules = struct.pack("Q", EVERYTHING)
    ruleset = _libc.syscall(CREATE_RULESET, rules, len(rules), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "Landlock refused its rules")
    readable = {sys.base_prefix, sys.prefix, str(Path(sys.executable).resolve().parent)}
    for path in (*readable, "/usr", "/lib", "/lib64", "/etc/ld.so.cache"):
        _allow(ruleset, path, READ)
    for path in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"):
        _allow(ruleset, path, FILES & EVERYTHING)
    _allow(ruleset, folder, EVERYTHING)
    if _libc.syscall(RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "Landlock could not be closed")
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH)
    except FileNotFoundError:
        return
    if not Path(path).is_dir():
        rights &= FILES | 1
    if _libc.syscall(ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, opened), 0):
        raise OSError(ctypes.get_errno(), f"Landlock refused {path}")
    os.close(opened)


def _refuse(why: str) -> NoReturn:
    os.write(1, why.encode())
    os._exit(REFUSED)


if __name__ == "__main__":
    main()
