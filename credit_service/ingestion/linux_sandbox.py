"""Two independent sandbox mechanisms of Linux.

`leave` takes users, files and networks from the process: a user of its own if root started it, new
namespaces, and a root directory that is empty and stays so. `filter_system_calls` makes the kernel
reject every system call but those that compute, or read and write open files. Neither can be
undone. Call them before any thread starts, with every module loaded.
"""

import ctypes
import os
import platform
import struct
import tempfile
from pathlib import Path

_UNPRIVILEGED_ID = 65534
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
_PR_SET_NO_NEW_PRIVS = 38
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1

# For each machine: its audit number, and the number of seccomp(2).
_MACHINES = {"x86_64": (0xC000003E, 317), "aarch64": (0xC00000B7, 277)}
# The calls that stay, with their numbers on x86_64 and aarch64. None takes the name of a file, a
# process or an address, but newfstatat, by which C libraries query open files.
_ALLOWED = {
    "brk": (12, 214),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "close": (3, 57),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "fstat": (5, 80),
    "ftruncate": (77, 46),
    "futex": (202, 98),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "lseek": (8, 62),
    "madvise": (28, 233),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "newfstatat": (262, 79),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "read": (0, 63),
    "readv": (19, 65),
    "restart_syscall": (219, 128),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "sigaltstack": (131, 132),
    "write": (1, 64),
    "writev": (20, 66),
}
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _MACHINE_AT = 0, 4
_REFUSE_WITH_EPERM, _ALLOW = 0x00050001, 0x7FFF0000


def leave() -> list[str]:
    """Leave users, files, networks and shared memory as far as the system permits.

    Returns those of OWN_USER and NAMESPACES that are in force.
    """
    reached = []
    _no_new_privileges()
    prepared = _enter_removed_folder()
    if become_unprivileged():
        reached.append("OWN_USER")
    if prepared and _enter_namespaces():
        reached.append("NAMESPACES")
    return reached


def filter_system_calls() -> bool:
    """Make the kernel reject all calls but `_ALLOWED` with EPERM. Returns whether it does."""
    if platform.machine() not in _MACHINES:
        return False
    _no_new_privileges()
    machine, seccomp = _MACHINES[platform.machine()]
    place = list(_MACHINES).index(platform.machine())
    numbers = [each[place] for each in _ALLOWED.values()]
    instructions = [
        (_LOAD_WORD, 0, 0, _MACHINE_AT),
        (_JUMP_IF_EQUAL, 0, len(numbers) + 1, machine),
        (_LOAD_WORD, 0, 0, _NUMBER_AT),
        # Each match jumps over the later ones and over the rejection.
        *((_JUMP_IF_EQUAL, len(numbers) - at, 0, each) for at, each in enumerate(numbers)),
        (_RETURN, 0, 0, _REFUSE_WITH_EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(
        b"".join(struct.pack("HBBI", *each) for each in instructions)
    )
    program = struct.pack("HP", len(instructions), ctypes.addressof(code))
    result = _c_library().syscall(
        ctypes.c_long(seccomp),
        ctypes.c_long(_SECCOMP_SET_MODE_FILTER),
        ctypes.c_long(_SECCOMP_FILTER_FLAG_TSYNC),
        program,
    )
    return bool(result == 0)


def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _no_new_privileges() -> None:
    """Let no program raise the privileges of this process. Filters require it."""
    _c_library().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _enter_removed_folder() -> bool:
    """Make a removed folder the working one, in which no file exists or can be created."""
    try:
        folder = Path(tempfile.mkdtemp())
        # The user that this process becomes needs it too.
        folder.chmod(0o555)  # it is empty, and gone at once
        os.chdir(folder)
        folder.rmdir()
    except OSError:
        return False
    return True


def become_unprivileged() -> bool:
    """If this process is root, become a user without groups or capabilities."""
    if os.geteuid() != 0:
        return False
    try:
        os.setgroups([])
        os.setresgid(_UNPRIVILEGED_ID, _UNPRIVILEGED_ID, _UNPRIVILEGED_ID)
        os.setresuid(_UNPRIVILEGED_ID, _UNPRIVILEGED_ID, _UNPRIVILEGED_ID)
    except OSError:
        return False
    return True


def _enter_namespaces() -> bool:
    """Enter new namespaces for users, networks and System V IPC, with the working folder as root.

    In a user namespace of its own a process can neither trace other processes of its user nor read
    their memory and environments.
    """
    library = _c_library()
    if library.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC) != 0:
        return False
    try:
        os.chroot(".")
    except OSError:
        return False
    header = struct.pack("Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    return bool(library.capset(header, bytes(24)) == 0)
