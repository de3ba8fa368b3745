"""Starts one program under limits, watches it, and leaves nothing of it behind.

A script of its own, run as `python -I -S launcher.py DESCRIPTOR` by daemon/child.py, which speaks
with it over that socket. It says `started 815` with the process id, then how the program itself
left (`exited 3`, `killed 9`) or why it could not be started (`failed program 2`: the step and the
errno), and at last `gone`. It hears one order (`_read_order`), later perhaps `T` for a polite end;
a closed socket, as when the daemon was killed, means an end at once. What this process itself
prints is in the program's output.

It imports little, and nothing slow, for every program pays for that.

Rule: the socket closes at this end when nothing of the program lives any more: not its group, nor
what left the group or was orphaned. It closes too early only when somebody kills this process;
then the program itself dies by the kernel's hand.
"""
# ruff: noqa: PTH123, PTH208, SIM105 - pathlib and contextlib are slow to import

import ctypes
import errno
import os
import resource
import select
import signal
import sys
import time
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30, "riscv64": 30}
"""The number of a system call that glibc has no name for."""
_IOPRIO_OWN: Final = (1, 0)
_IOPRIO_IDLE: Final = 3 << 13

_POLITE: Final = b"T"
_END_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_TASKS_UNSEEN: Final = 8
"""How many tasks of our user may have come, or be hidden, since they were counted."""
_LEFT: Final = os.WEXITED | os.WNOHANG | os.WNOWAIT
"""Look whether a child is dead, and leave its process id taken."""

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))):
        raise OSError(ctypes.get_errno(), "prctl")


class _Order:
    """What is to be run, and how; everything is bytes, for nothing here is ours to read."""

    def __init__(self, fields: list[bytes]) -> None:
        numbers = [int(field) for field in fields[:9]]
        self.grace_seconds = numbers[0] / 1000
        self.idle = bool(numbers[1])
        self.address_space_bytes, self.cpu_seconds, self.file_size_bytes = numbers[2:5]
        self.open_files, self.processes, self.tasks_of_daemon = numbers[5:8]
        self.directory = fields[9]
        self.argv = fields[10 : 10 + numbers[8]]
        pairs = (field.partition(b"=") for field in fields[10 + numbers[8] :])
        self.environment = {name: value for name, _, value in pairs}


def _read_order(control: int) -> _Order | None:
    """Return the order, eight bytes of length and fields between NULs; None: called off."""
    text, length = b"", 8
    while len(text) < length:
        # Not a byte too many: what comes next is no part of it.
        if not (read := os.read(control, length - len(text))):
            return None
        text += read
        length = 8 + int.from_bytes(text[:8], "big")
    return _Order(text[8:].split(b"\0"))


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _count_tasks(besides: int) -> int:
    """Return how many tasks of our user are seen, those of one process left out.

    The owner in the folder's `stat` will not do: whatever is not dumpable seems to be root's.
    """
    uid, count = str(os.getuid()).encode(), 0
    for name in os.listdir("/proc"):
        if not name.isdecimal() or name == str(besides):
            continue
        try:
            lines = _read(f"/proc/{name}/status").split(b"\n")
        except OSError:
            continue
        told = dict(line.split(b":", 1) for line in lines if line.startswith((b"Uid", b"Threads")))
        if told.get(b"Uid", b"").split()[:1] == [uid]:
            count += int(told[b"Threads"])
    return count


def _fork(order: _Order) -> tuple[int, int]:
    """Fork; return the process id, and how many tasks of our user the program may lead to.

    The kernel counts all tasks of a user, whoever started them, so the program's share comes on top
    of what is there. Some of that may be out of sight, in other containers say; then not even this
    fork succeeds under the count, and all tasks of the machine are taken for ours (where even they
    are out of sight, only the limit of the daemon holds).
    """
    mine = order.tasks_of_daemon + _count_tasks(besides=os.getppid())
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)

    def capped(count: int) -> int:
        return count if hard == resource.RLIM_INFINITY else min(count, hard)

    resource.setrlimit(resource.RLIMIT_NPROC, (capped(mine + _TASKS_UNSEEN), hard))
    try:
        pid = os.fork()
    except BlockingIOError:
        try:
            mine = int(_read("/proc/loadavg").split()[3].partition(b"/")[2])
        except OSError:
            mine = soft
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
        pid = os.fork()
    return pid, capped(mine + order.processes)


def _become(order: _Order, report: int, launcher: int, tasks: int) -> None:
    """Turn this forked process into the program; what hinders it is told through the pipe."""
    step = "session"
    try:
        os.setsid()
        step = "privileges"
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:
            os._exit(127)  # it died before the line above
        os.umask(0o077)
        _be_first_to_go()
        if order.idle:
            _be_idle()
        # Python ignores SIGPIPE and SIGXFSZ, and whatever is ignored stays so in a program.
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        step = "directory"
        os.chdir(order.directory)
        step = "descriptors"
        os.dup2(report, 3, inheritable=False)
        os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        report = 3
        step = "limits"
        for which, most, slack in (
            (resource.RLIMIT_CORE, 0, 0),
            # The first second too much brings a SIGXCPU that can be ignored, the next one the end.
            (resource.RLIMIT_CPU, order.cpu_seconds, 1),
            (resource.RLIMIT_FSIZE, order.file_size_bytes, 0),
            (resource.RLIMIT_NOFILE, order.open_files, 0),
            (resource.RLIMIT_NPROC, tasks, 0),
            (resource.RLIMIT_AS, order.address_space_bytes, 0),
        ):
            _limit(which, most, slack)
        step = "program"
        os.execve(order.argv[0], order.argv, order.environment)  # noqa: S606 - no shell, never
    except BaseException as error:  # noqa: BLE001 - nothing may return into the launcher's code
        reason = getattr(error, "errno", None) or errno.ENOMEM
        os.write(report, f"{step} {reason}".encode())
    finally:
        os._exit(127)


def _limit(which: int, most: int, slack: int) -> None:
    """Set a limit, or leave a hard one that is lower."""
    hard = resource.getrlimit(which)[1]
    top = most + slack if hard == resource.RLIM_INFINITY else min(most + slack, hard)
    resource.setrlimit(which, (min(most, top), top))


def _be_first_to_go() -> None:
    """Let a machine that is out of memory take this process, and not the daemon."""
    try:
        with open("/proc/self/oom_score_adj", "wb") as file:
            file.write(b"1000")
    except OSError:
        pass


def _be_idle() -> None:
    """Compute and read only when nobody else wants to; a kernel that refuses does no harm."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        pass
    if number := _IOPRIO_SET.get(os.uname().machine):
        _libc.syscall(*map(ctypes.c_long, (number, *_IOPRIO_OWN, _IOPRIO_IDLE)))


def _children() -> list[int]:
    """Return our children, dead ones included; orphans of the program are among them."""
    me = os.getpid()
    try:
        return [int(pid) for pid in _read(f"/proc/self/task/{me}/children").split()]
    except FileNotFoundError:
        return _scan_children(me)


def _scan_children(parent: int) -> list[int]:
    """Return the children of a process where the kernel keeps no list (CONFIG_PROC_CHILDREN)."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                # The name of the program may hold anything, so what comes behind its last ")".
                fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.append(int(name))
    return found


def _is_dead(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, _LEFT) is not None
    except ChildProcessError:
        return True


def _signal(pid: int, number: int, *, group: bool = False) -> bool:
    try:
        (os.killpg if group else os.kill)(pid, number)
    except OSError:
        return False
    return True


class _Watch:
    """One program that runs, and the socket to the daemon.

    Its process id stays taken until the end, by not reaping it, and so does that of its group.
    """

    def __init__(self, control: int, program: int, report: int, wake: int) -> None:
        self._control = control
        self._program = program
        self._report = report
        self._wake = wake
        self._told = False
        self._poll = select.poll()
        for descriptor in (control, report, wake):
            self._poll.register(descriptor, select.POLLIN)

    def say(self, words: str) -> None:
        """Tell the daemon."""
        try:
            os.write(self._control, f"{words}\n".encode())
        except OSError:
            pass  # the daemon is gone, and the next look at the socket shows it

    def _hear(self, timeout_seconds: float | None) -> str:
        """Wait for something to happen; return `kill`, `end`, or nothing when it is a child's."""
        words = ""
        wait = None if timeout_seconds is None else int(timeout_seconds * 1000) + 1
        for descriptor, _ in self._poll.poll(wait):
            try:
                said = os.read(descriptor, 4096)
            except ConnectionResetError:
                said = b""
            if descriptor == self._report:
                self._poll.unregister(descriptor)
                self.say(f"started {self._program}" if not said else f"failed {said.decode()}")
                self._told = bool(said)
            elif descriptor == self._control and not said:
                return "kill"
            elif descriptor == self._control or set(said) & {*map(int, _END_SIGNALS)}:
                words = "end"
        return words

    def run(self, grace_seconds: float) -> None:
        """Return when the program and all that it started is gone."""
        words = ""
        while not words and not _is_dead(self._program):
            words = self._hear(None)
            self._reap_orphans()
        if not words:
            self._hear(0)  # why it could not be started, if that is how it ended
            self._tell_end()
        if words != "kill" and not self._is_over():
            self._end(grace_seconds)
        self._kill()
        self._tell_end()

    def _is_over(self) -> bool:
        return all(map(_is_dead, _children()))

    def _reap_orphans(self) -> None:
        while (dead := os.waitid(os.P_ALL, 0, _LEFT)) and dead.si_pid != self._program:
            os.waitpid(dead.si_pid, 0)

    def _tell_end(self) -> None:
        if self._told:
            return
        self._told = True
        how = os.waitid(os.P_PID, self._program, os.WEXITED | os.WNOWAIT)
        assert how is not None  # noqa: S101 - for the type alone: it waits
        self.say(f"{'exited' if how.si_code == os.CLD_EXITED else 'killed'} {how.si_status}")

    def _end(self, grace_seconds: float) -> None:
        """Ask everybody to leave, and give them a little time, unless the daemon hurries."""
        if not _signal(self._program, signal.SIGTERM, group=True):
            _signal(self._program, signal.SIGTERM)  # so young that it has no group yet
        for pid in _children():
            if pid != self._program:
                _signal(pid, signal.SIGTERM)
        until = time.monotonic() + grace_seconds
        while not self._is_over() and (left := until - time.monotonic()) > 0:
            # Who is no child of ours yet tells us nothing when it dies.
            if self._hear(min(left, 0.05)) == "kill":
                return

    def _kill(self) -> None:
        """Kill our children until there are none; those of the dead become ours.

        The dead are left unreaped, for they count against the limit of processes: so also a program
        that forks faster than we can look runs out of it. Root has no such limit, so there they are
        reaped. Nobody is left when all were dead before a list that shows nobody new.
        """
        _signal(self._program, signal.SIGKILL, group=True)
        settled: list[int] | None = None
        pause = 0.0005
        while (listed := _children()) != settled:
            settled = listed
            for pid in listed:
                if not _is_dead(pid):
                    settled = None
                    _signal(pid, signal.SIGKILL)
                elif pid != self._program and os.getuid() == 0:
                    settled = None
                    os.waitpid(pid, 0)
            if settled is None:
                time.sleep(pause)
                pause = min(0.01, pause * 2)

    @staticmethod
    def reap() -> None:
        """Let go of the dead."""
        try:
            while True:
                os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _hear_signals() -> int:
    """Return a pipe into which every signal that concerns us writes its number."""
    wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, *_END_SIGNALS):
        signal.signal(number, lambda *_: None)
    return wake


def main() -> None:
    """Run the program that the daemon orders."""
    control = int(sys.argv[1])
    os.set_inheritable(control, False)  # noqa: FBT003 - it takes no keyword
    # The program has our user: it shall not speak to the daemon in our name.
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    order = _read_order(control)
    if order is None:
        return
    wake = _hear_signals()
    report, reporter = os.pipe2(os.O_CLOEXEC)
    launcher = os.getpid()
    # Until the forked process has its own, a signal would run our handlers there.
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    program, tasks = _fork(order)
    if program == 0:
        _become(order, reporter, launcher, tasks)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(reporter)
    watch = _Watch(control, program, report, wake)
    watch.run(order.grace_seconds)
    watch.reap()
    watch.say("gone")


if __name__ == "__main__":
    main()
    os._exit(0)  # there is nothing to tidy
