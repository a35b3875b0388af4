"""A seccomp filter that takes from a process what learner code never needs: other processes,
sockets, mounts, ptrace ….

Linux on x86-64 and on 64-bit Arm; elsewhere `install` returns False and the namespaces and limits
stand alone.
Layout of the filter: struct sock_filter of linux/filter.h, actions of linux/seccomp.h.
"""

import ctypes
import errno
import platform
import struct

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32 = 0x40000000  # calls of the x32 interface carry this bit
CLONE_THREAD = 0x10000
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2

# the number of a call on x86-64 and on Arm; None where it does not exist
REFUSED = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "process_madvise": (440, 440), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "mount": (165, 40),
    "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "fsopen": (430, 430),
    "fsmount": (432, 432), "move_mount": (429, 429), "open_tree": (428, 428),
    "mount_setattr": (442, 442), "mknod": (133, None), "mknodat": (259, 33), "quotactl": (179, 60),
    "acct": (163, 89), "swapon": (167, 224), "unshare": (272, 97), "setns": (308, 268),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "fanotify_init": (300, 262),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "mlock": (149, 228),
    "mlockall": (151, 230), "socket": (41, 198), "connect": (42, 203), "bind": (49, 200),
    "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242), "init_module": (175, 105),
    "finit_module": (313, 273), "kexec_load": (246, 104), "reboot": (169, 142),
    "syslog": (103, 116), "personality": (135, 92), "lookup_dcookie": (212, 18),
    "move_pages": (279, 239), "migrate_pages": (256, 238), "vmsplice": (278, 75),
}  # fmt: skip
CLONE, CLONE3 = (56, 220), (435, 435)
STARTS = ("fork", "vfork", "execve", "execveat")
NEW_NAMESPACES = 0x7E020080  # bits of clone's flags


def program(machine: str, programs: bool = False) -> bytes:
    """The filter for a machine, as an array of struct sock_filter; with `programs`, other programs
    may be started.
    """
    column = list(AUDIT_ARCH).index(machine)
    lines = [
        (LOAD, 0, 0, ARCHITECTURE), (JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]), (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER), (JUMP_AT_LEAST, 0, 1, X32), (RETURN, 0, 0, ERRNO | errno.ENOSYS),
    ]  # fmt: skip
    for number in (
        numbers[column] for name, numbers in REFUSED.items() if not (programs and name in STARTS)
    ):
        if number is not None:
            lines += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, ERRNO | errno.EPERM)]
    # the C library falls back to clone; there, new threads are let through and new processes are
    # not
    lines += [(JUMP_EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, ERRNO | errno.ENOSYS)]
    lines += [(JUMP_EQUAL, 0, 3, CLONE[column]), (LOAD, 0, 0, FIRST_ARGUMENT)]
    allowed = (
        (JUMP_ANY_BIT, 0, 1, NEW_NAMESPACES) if programs else (JUMP_ANY_BIT, 1, 0, CLONE_THREAD)
    )
    lines += [allowed, (RETURN, 0, 0, ERRNO | errno.EPERM), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def supported() -> bool:
    """Whether system calls can be filtered on this machine."""
    return platform.system() == "Linux" and platform.machine() in AUDIT_ARCH


def install(libc: ctypes.CDLL, programs: bool = False) -> bool:
    """Put this process, and all it will ever be, under the filter.

    Raises OSError if the kernel refuses.
    """
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs was refused")
    if not supported():
        return False
    code = program(platform.machine(), programs)
    kept = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_void_p)]

    filter_ = Program(len(code) // 8, ctypes.addressof(kept))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0):
        raise OSError(ctypes.get_errno(), "the seccomp filter was refused")
    return True
