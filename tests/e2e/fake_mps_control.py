#!/usr/bin/env python3
"""A control program that speaks as nvidia-cuda-mps-control does, for tests on the simulated driver: `-d` starts a daemon in
CUDA_MPS_PIPE_DIRECTORY, anything else is a command on standard input.

The daemon is a process that holds a lock, its one server another. The simulated driver takes the file `bulkhead-sim-mps` for a
running server. Clients are the processes that were started with this pipe directory and have loaded libcuda. Tests read HOME/commands,
one command a line (HOME = the directory above the pipe directory), and write HOME/fail, "COMMAND hang|wait|error" a line ("look" is any command that finds no daemon), and HOME/status."""
import fcntl
import os
import pathlib
import signal
import sys
import time

PIPE = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
HOME = PIPE.parent


def note(text):
    with open(HOME / "commands", "a") as f:
        f.write(f"{text}\n")


def fails(word):
    """What is to go wrong with this command."""
    try:
        lines = (HOME / "fail").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        what, how = line.split()
        if what != word:
            continue
        if how == "hang":
            signal.pause()
        if how == "wait":  # until the test says so
            while HOME.exists() and not (HOME / "go").exists():
                time.sleep(0.02)
            return
        print(f"told to fail: {word}")
        sys.exit(1)


def held():
    """The lock's descriptor if nobody has it, else None."""
    fd = os.open(PIPE / "control_lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd
    except BlockingIOError:
        os.close(fd)
        return None


def lives(pid):
    try:
        return f"{pid} (" in pathlib.Path(f"/proc/{pid}/stat").read_text() and ") Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def stay():
    """Until the directory is gone: a test that ends leaves nothing behind."""
    while PIPE.exists():
        time.sleep(0.2)
    os._exit(0)


def start():
    note("-d")
    fails("-d")
    lock = held()
    if lock is None:
        print("An instance of this daemon is already running")
        sys.exit(1)
    up, told = os.pipe()
    if os.fork() == 0:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.set_inheritable(lock, True)
        server = os.fork()
        if server == 0:
            os.close(lock)  # the control daemon's alone
            stay()
        (PIPE / "nvidia-cuda-mps-control.pid").write_text(str(os.getpid()))
        (PIPE / "server.pid").write_text(str(server))
        (PIPE / "bulkhead-sim-mps").write_text("")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.write(told, b"+")
        stay()
    os.read(up, 1)


def servers():
    try:
        pid = int((PIPE / "server.pid").read_text())
    except (OSError, ValueError):
        return []
    return [pid] if lives(pid) else []


def clients():
    mine = f"CUDA_MPS_PIPE_DIRECTORY={PIPE}".encode()
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mine in (entry / "environ").read_bytes().split(b"\0") and "libcuda.so" in (entry / "maps").read_text():
                yield entry.name
        except OSError:
            continue  # gone, or not ours


def quit_daemon():
    for name in ("server.pid", "nvidia-cuda-mps-control.pid"):
        try:
            os.kill(int((PIPE / name).read_text()), signal.SIGKILL)
        except (OSError, ValueError):
            pass
    for name in ("bulkhead-sim-mps", "server.pid", "nvidia-cuda-mps-control.pid"):
        (PIPE / name).unlink(missing_ok=True)


def answer(line):
    word, *rest = line.split()
    note(line)
    fails(word)
    if word == "get_server_list":
        print("\n".join(map(str, servers())))
    elif word == "get_client_list":
        print("\n".join(clients()))
    elif word == "get_server_status":
        try:
            print((HOME / "status").read_text().strip())
        except OSError:
            print("ACTIVE")
    elif word in ("terminate_client", "set_default_active_thread_percentage"):
        pass
    elif word == "quit":
        quit_daemon()
    else:
        print(f"Unknown command {word}")


def main():
    if sys.argv[1:] == ["-d"]:
        return start()
    lock = held()
    if lock is not None:
        os.close(lock)
        note("look")
        fails("look")
        print("Cannot find MPS control daemon process")
        sys.exit(1)
    for line in sys.stdin.read().splitlines():
        if line.strip():
            answer(line.strip())
    return None


main()
