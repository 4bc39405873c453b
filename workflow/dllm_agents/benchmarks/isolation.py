"""A long-lived helper process for code that must not be trusted, and the kernel restrictions it puts on itself.

Parent side: `Worker` starts a worker process and replaces it when it dies or overruns its time. Child side: `confine` gives up files,
network, processes, signals and memory, one layer at a time, and `probe` tries what should now fail. The worker reports which of them its
machine offers, the parent logs it.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import platform
import resource
import secrets
import socket
import stat
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dllm_agents.benchmarks.worker import WorkerLost, WorkerProcess
from dllm_agents.errors import StageError

log = logging.getLogger(__name__)

START_SECONDS = 60.0
PATIENCE = 10  # times the wall limit, on a machine too busy to let the worker run
MEMORY_BYTES = 1 << 30
FILE_BYTES = 16 << 20
OPEN_FILES = 64
REPLY_BYTES = 32 << 20

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
_EPERM = 1


# ---------------------------------------------------------------------------------------------------------------- child side


def confine(scratch: Path) -> list[str]:
    """Give up what a checker does not need; returns the names of the layers that hold, weakest first.

    After it no file can be opened for writing outside `scratch`, none be read but Python's own and the system's libraries, no socket
    made, no process started and none signalled. Cannot be undone.
    """
    layers = ["limits"] if _limit_resources() else []
    if not sys.platform.startswith("linux"):
        return layers
    if _LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC) == 0:
        layers.append("namespaces")
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return layers
    if _restrict_paths(scratch):
        layers.append("landlock")
    if _filter_system_calls():
        layers.append("seccomp")
    return layers


def _limit_resources() -> bool:
    limits = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    try:
        for which, value in limits.items():
            hard = resource.getrlimit(which)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))
    except (OSError, ValueError):
        return False
    return True


# Landlock (linux/landlock.h): the rights a ruleset handles are denied everywhere but beneath the paths it names.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_EXECUTE = 1 << 0
_LANDLOCK_READ_FILE, _LANDLOCK_READ_FOLDER = 1 << 2, 1 << 3
_LANDLOCK_WRITE = (1 << 1) | sum(1 << bit for bit in range(4, 13))  # write_file, remove_*, make_*
_LANDLOCK_SINCE = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # ABI version -> refer, truncate, ioctl_dev
# What a running interpreter reads beside its own folders: libraries, locales, time zones, devices without state.
_SYSTEM_READS = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/usr/share/locale",
    "/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom",
)  # fmt: skip


def _readable() -> Iterator[Path]:
    """What may be read: the standard library, installed packages, this one, the system's libraries; not the prefix, maybe a home."""
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    installed = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    for name in dict.fromkeys([*libraries, *installed, str(Path(__file__).resolve().parents[1]), *_SYSTEM_READS]):
        if Path(name).exists():
            yield Path(name)


def _landlock_version() -> int:
    """The kernel's Landlock ABI; below 1 where it has none."""
    return int(_LIBC.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))


def _restrict_paths(scratch: Path) -> bool:
    version = _landlock_version()
    if version < 1:
        return False
    read = _LANDLOCK_READ_FILE | _LANDLOCK_READ_FOLDER
    write = _LANDLOCK_WRITE | sum(right for since, right in _LANDLOCK_SINCE.items() if version >= since)
    attributes = [read | write | _LANDLOCK_EXECUTE]
    if version >= 4:
        attributes.append(0b11)  # bind and connect over TCP
    if version >= 6:
        attributes.append(0b11)  # abstract Unix sockets and signals to outside
    ruleset = (ctypes.c_uint64 * len(attributes))(*attributes)
    descriptor = _LIBC.syscall(_LANDLOCK_CREATE, ruleset, ctypes.c_size_t(ctypes.sizeof(ruleset)), 0)
    if descriptor < 0:
        return False
    try:
        allowed = [(scratch, read | write), *((path, read if path.is_dir() else _LANDLOCK_READ_FILE) for path in _readable())]
        if not all(_allow(descriptor, path, rights) for path, rights in allowed):
            return False
        return bool(_LIBC.syscall(_LANDLOCK_RESTRICT, descriptor, 0) == 0)
    finally:
        os.close(descriptor)


def _allow(ruleset: int, path: Path, rights: int) -> bool:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = rights.to_bytes(8, sys.byteorder) + descriptor.to_bytes(4, sys.byteorder)
        return bool(_LIBC.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0) == 0)
    finally:
        os.close(descriptor)


# System calls a sealed Python interpreter needs to compute, import and answer; everything else returns EPERM.
# Numbers from the kernel's syscall_64.tbl and asm-generic/unistd.h.
_ALLOWED = {
    "x86_64": """
        read=0 write=1 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10 munmap=11 brk=12 rt_sigaction=13
        rt_sigprocmask=14 rt_sigreturn=15 pread64=17 readv=19 writev=20 access=21 mremap=25 madvise=28 nanosleep=35 setitimer=38
        getpid=39 exit=60 uname=63 getcwd=79 readlink=89 gettimeofday=96 getrusage=98 sysinfo=99 getuid=102 getgid=104
        geteuid=107 getegid=108 sigaltstack=131 gettid=186 futex=202 getdents64=217 clock_gettime=228 clock_nanosleep=230
        exit_group=231 newfstatat=262 readlinkat=267 faccessat=269 set_robust_list=273 getrandom=318 statx=332 rseq=334
        faccessat2=439""",
    "aarch64": """
        getcwd=17 faccessat=48 close=57 getdents64=61 lseek=62 read=63 write=64 readv=65 writev=66 pread64=67 ppoll=73
        readlinkat=78 newfstatat=79 fstat=80 exit=93 exit_group=94 futex=98 set_robust_list=99 nanosleep=101 setitimer=103
        clock_gettime=113 clock_nanosleep=115 sigaltstack=132 rt_sigaction=134 rt_sigprocmask=135 rt_sigreturn=139 uname=160
        getrusage=165 gettimeofday=169 getpid=172 getuid=174 geteuid=175 getgid=176 getegid=177 gettid=178 sysinfo=179 brk=214
        munmap=215 mremap=216 mmap=222 mprotect=226 madvise=233 getrandom=278 statx=291 rseq=293 faccessat2=439""",
}
_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_OPEN = {"x86_64": {"open": (2, 1), "openat": (257, 2)}, "aarch64": {"openat": (56, 2)}}  # number, index of the flags argument
_FCNTL = {"x86_64": 72, "aarch64": 25}
# Duplicating a descriptor and reading its flags. F_SETOWN, F_SETSIG, F_SETLEASE and F_NOTIFY would send signals to other processes.
_FCNTL_ALLOWED = (0, 1, 2, 3, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _filter_system_calls() -> bool:
    """A seccomp-BPF filter: the allowed calls, fcntl for its harmless commands, and opening files for reading only."""
    machine = platform.machine()
    if machine not in _ALLOWED or sys.maxsize < 2**32:
        return False
    allowed = [int(entry.partition("=")[2]) for entry in _ALLOWED[machine].split()]
    load, equal, any_bit, answer = 0x20, 0x15, 0x45, 0x06
    allow, deny = 0x7FFF0000, 0x00050000 | _EPERM
    lines = [(load, 0, 0, 4), (equal, 1, 0, _AUDIT_ARCHITECTURE[machine]), (answer, 0, 0, deny), (load, 0, 0, 0)]
    for number in allowed:
        lines += [(equal, 0, 1, number), (answer, 0, 0, allow)]
    for number, flags in _OPEN[machine].values():
        lines += [
            (equal, 0, 4, number),
            (load, 0, 0, 16 + 8 * flags),
            (any_bit, 0, 1, _WRITE_FLAGS),
            (answer, 0, 0, deny),
            (answer, 0, 0, allow),
        ]
    lines += [(equal, 0, 2 + 2 * len(_FCNTL_ALLOWED), _FCNTL[machine]), (load, 0, 0, 16 + 8)]
    for command in _FCNTL_ALLOWED:
        lines += [(equal, 0, 1, command), (answer, 0, 0, allow)]
    lines += [(answer, 0, 0, deny), (answer, 0, 0, deny)]
    code = b"".join(
        operation.to_bytes(2, sys.byteorder) + bytes((then, otherwise)) + value.to_bytes(4, sys.byteorder)
        for operation, then, otherwise, value in lines
    )
    program = _Program(len(lines), code)
    return bool(_LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def probe(outside: Path, layers: Sequence[str]) -> dict[str, bool]:
    """Try what must fail now; True where it is blocked. `outside` is a file beyond the scratch folder, `layers` what `confine` gave."""
    signals_scoped = "landlock" in layers and _landlock_version() >= 6

    def start_process() -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    def connect() -> None:
        with socket.socket() as connection:
            connection.bind(("127.0.0.1", 0))

    def signal_the_parent() -> None:
        try:
            os.kill(os.getppid(), 0)
        except OSError:
            # By way of fcntl a signal reaches the owner of a pipe, unless Landlock scopes signals, which shows only on delivery.
            if signals_scoped:
                raise
            fcntl.fcntl(sys.stdin.fileno(), fcntl.F_SETOWN, os.getppid())
            fcntl.fcntl(sys.stdin.fileno(), fcntl.F_SETOWN, 0)

    attempts = {
        "network": connect,
        "writes": lambda: os.close(os.open(outside, os.O_WRONLY | os.O_NOFOLLOW)),
        "reads": lambda: os.close(os.open(outside, os.O_RDONLY | os.O_NOFOLLOW)),
        "processes": start_process,
        "signals": signal_the_parent,
    }
    return {name: _is_blocked(attempt) for name, attempt in attempts.items()}


def _is_blocked(attempt: Any) -> bool:
    try:
        attempt()
    except OSError:
        return True
    return False


# --------------------------------------------------------------------------------------------------------------- parent side


class Worker:
    """A restartable helper process. Requests and replies are JSON values; safe to share between threads.

    `module` is run as `python -m module <process id> <scratch> <outside>`; what it is ready with is what it reached (`confine`, `probe`). A
    `scratch` folder that another user owns or may write to is refused (StageError): what lies there is read by later workers.
    """

    def __init__(self, module: str, scratch: str | Path | None = None, seconds: float = 3.5) -> None:
        self.module = module
        self.seconds = seconds
        self.ready: dict[str, Any] = {}
        self.restarts = -1
        self._home = tempfile.TemporaryDirectory(prefix="dllm-agents-") if scratch is None else None
        self.scratch = Path(self._home.name, "scratch") if self._home else Path(scratch or "").resolve()
        self._lock = threading.RLock()
        self._process: WorkerProcess | None = None

    def call(self, request: Any) -> Any:
        """The reply to one request. Raises WorkerLost when the worker ended on it."""
        reply = self.call_many([request])[0]
        if isinstance(reply, WorkerLost):
            raise reply
        return reply

    def call_many(self, requests: Sequence[Any]) -> list[Any]:
        """The replies in order; a request on which the worker ended gives a WorkerLost and the next ones go to a new worker."""
        replies: list[Any] = []
        with self._lock:
            try:
                while len(replies) < len(requests):
                    self._exchange(requests, replies)
            except BaseException:
                self._stop()  # replies that nobody read must not answer the next request
                raise
        return replies

    def _exchange(self, requests: Sequence[Any], replies: list[Any]) -> None:
        """Send what is not answered yet and read until all is, or until the worker is lost."""
        process = self._start()
        writer = threading.Thread(target=process.send, args=(requests[len(replies) :],), daemon=True)
        writer.start()
        try:
            while len(replies) < len(requests):
                replies.append(process.receive(self.seconds, REPLY_BYTES, PATIENCE))
        except WorkerLost as loss:
            replies.append(WorkerLost("crashed") if str(loss) == "unreadable" else loss)
        writer.join()

    def close(self) -> None:
        """End the process and remove the scratch folder this worker made. Safe to call twice."""
        with self._lock:
            self._stop()
            if self._home is not None:
                self._home.cleanup()

    def _start(self, again: bool = True) -> WorkerProcess:
        if self._process is not None and self._process.alive:
            return self._process
        self._stop()
        self._own_scratch()
        kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL") if key in os.environ}
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)  # it runs in its scratch folder
        own = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "HOME": str(self.scratch)}
        outside = self._probe_file()
        self._process = WorkerProcess(self.module, str(self.scratch), str(outside), folder=self.scratch, environment=kept | own)
        try:
            self.ready = self._process.receive(START_SECONDS, REPLY_BYTES, PATIENCE)
        except WorkerLost as loss:
            if again and str(loss) == "crashed" and self._process.killed:  # from outside, such as to free memory
                return self._start(again=False)
            raise StageError(f"{self.module}: the isolated process did not start ({loss}); {self._process.last_words()}") from None
        finally:
            outside.unlink(missing_ok=True)
        self.restarts += 1
        if self.restarts == 0:
            self._report()
        return self._process

    def _own_scratch(self) -> None:
        self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.scratch.stat()
        if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StageError(f"{self.scratch}: another user owns this scratch folder or may write to it; name one of your own (mode 700)")

    def _probe_file(self) -> Path:
        """A file beside the scratch folder, of a name that nobody can foresee, for the worker to try itself on."""
        path = self.scratch.parent / f".{self.scratch.name}-probe-{secrets.token_hex(8)}"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as handle:
            handle.write("a worker tries to read this")
        return path

    def _report(self) -> None:
        layers, open_doors = self.ready["layers"], [name for name, blocked in self.ready["blocked"].items() if not blocked]
        log.info("%s: isolation by %s", self.module, ", ".join(layers) or "nothing")
        if open_doors:
            log.warning(
                "%s: the kernel offers no isolation of %s here; only the parser stands in front", self.module, ", ".join(open_doors)
            )

    def _stop(self) -> None:
        if self._process is not None:
            self._process.close()
