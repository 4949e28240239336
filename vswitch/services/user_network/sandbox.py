"""What takes from this process all that it does not need: capabilities, other programs, files, kinds of sockets.

It parses what guests send in C. Whoever takes it over is to find nothing there but internet sockets, which guests have
anyway. Its network is left as it is.
"""

import ctypes
import os
import platform
import resource
import struct

_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 24, 38  # sys/prctl.h
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_CAPABILITIES = 64
_CAPABILITY_VERSION_3 = 0x2008_0522  # linux/capability.h

# linux/landlock.h; the calls have the same numbers on all machines
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH, _READ_FILE = 1, 1 << 2
_LANDLOCK_VERSION = 1
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}  # by version, up to REFER and TRUNCATE

MEMORY_MAX = 1 << 30  # bytes of address space

# Calls that start programs, reach other processes and files, or change the system; by machine, from its asm/unistd.h.
_SOCKET = {"x86_64": 41, "aarch64": 198}
_ARCHITECTURE = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}  # linux/audit.h
_FORBIDDEN = {
    "x86_64": {
        *{"clone": 56, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "clone3": 435}.values(),
        *{"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "pidfd_getfd": 438}.values(),
        *{"mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "setns": 308, "unshare": 272}.values(),
        *{"bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "keyctl": 250}.values(),
        *{"init_module": 175, "finit_module": 313, "kexec_load": 246, "reboot": 169, "open_by_handle_at": 304}.values(),
        *{"add_key": 248, "request_key": 249, "socketpair": 53}.values(),
        *{"kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297}.values(),
        *{"pidfd_open": 434, "pidfd_send_signal": 424, "process_madvise": 440, "prlimit64": 302}.values(),
        *{"setrlimit": 160, "setpriority": 141, "sched_setaffinity": 203, "ioprio_set": 251}.values(),
        *{"chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "truncate": 76, "mknod": 133}.values(),
        *{"chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "name_to_handle_at": 303}.values(),
        *{"setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "utime": 132, "utimes": 235}.values(),
        *{"futimesat": 261, "utimensat": 280, "shmget": 29, "shmat": 30, "shmctl": 31}.values(),
        *{"msgget": 68, "semget": 64, "mq_open": 240, "clock_settime": 227, "settimeofday": 164}.values(),
    },
    "aarch64": {
        *{"clone": 220, "execve": 221, "execveat": 281, "clone3": 435}.values(),
        *{"ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "pidfd_getfd": 438}.values(),
        *{"mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "setns": 268, "unshare": 97}.values(),
        *{"bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425, "keyctl": 219}.values(),
        *{"init_module": 105, "finit_module": 273, "kexec_load": 104, "reboot": 142, "open_by_handle_at": 265}.values(),
        *{"add_key": 217, "request_key": 218, "socketpair": 199}.values(),
        *{"kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240}.values(),
        *{"pidfd_open": 434, "pidfd_send_signal": 424, "process_madvise": 440, "prlimit64": 261}.values(),
        *{"setrlimit": 164, "setpriority": 140, "sched_setaffinity": 122, "ioprio_set": 30}.values(),
        *{"fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "truncate": 45, "mknodat": 33}.values(),
        *{"fchown": 55, "fchownat": 54, "name_to_handle_at": 264}.values(),
        *{"setxattr": 5, "lsetxattr": 6, "fsetxattr": 7}.values(),
        *{"utimensat": 88, "shmget": 194, "shmat": 196, "shmctl": 195}.values(),
        *{"msgget": 186, "semget": 190, "mq_open": 180, "clock_settime": 112, "settimeofday": 170}.values(),
    },
}
_INET, _INET6 = 2, 10  # the families that sockets may have
_X32 = 0x4000_0000  # a second set of numbers on x86_64

# linux/filter.h, linux/seccomp.h
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENT_AT = 0, 4, 16
_EPERM = 1

_libc = ctypes.CDLL(None, use_errno=True)


def enter(folder: int | None = None) -> list[str]:
    """Takes it all away, for good, but for files beneath a folder, which can be read. Answers what this system does not
    have."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for capability in range(_CAPABILITIES):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _check(_libc.capset(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), bytes(24)), "capset")
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    lacks = []
    if not _restrict_files(folder):
        lacks.append("Landlock")
    if not _restrict_calls(platform.machine()):
        lacks.append("seccomp")
    return lacks


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _restrict_files(folder: int | None) -> bool:
    """Landlock: no other file can be opened any more. Answers whether the kernel has it."""
    version = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return False
    rights = _FILE_RIGHTS.get(version, _FILE_RIGHTS[3])
    ruleset = _libc.syscall(_LANDLOCK_CREATE_RULESET, struct.pack("Q", rights), 8, 0)
    if ruleset < 0:
        return False
    try:
        if folder is not None:
            rule = struct.pack("=Qi", _READ_FILE, folder)
            _check(_libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0), "Landlock")
        return bool(_libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _restrict_calls(machine: str) -> bool:
    """seccomp: what is forbidden fails with EPERM. Answers whether this can be had here."""
    if machine not in _FORBIDDEN:
        return False
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _filter(machine))
    memory = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(memory))
    return bool(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) == 0)


def _filter(machine: str) -> list[tuple[int, int, int, int]]:
    """Instructions of classic BPF: code, how many to skip if true and if false, operand."""
    deny = (_RETURN, 0, 0, _ERRNO | _EPERM)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, _ARCHITECTURE[machine]),
        deny,
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32),
        deny,
    ]
    for number in sorted(_FORBIDDEN[machine]):
        program += [(_EQUAL, 0, 1, number), deny]
    return [
        *program,
        (_EQUAL, 0, 4, _SOCKET[machine]),
        (_LOAD, 0, 0, _ARGUMENT_AT),
        (_EQUAL, 2, 0, _INET),
        (_EQUAL, 1, 0, _INET6),
        deny,
        (_RETURN, 0, 0, _ALLOW),
    ]
