#!/usr/bin/env python3
"""A control program that speaks as nvidia-cuda-mps-control does, for tests on the simulated driver: `-d` starts a daemon in
CUDA_MPS_PIPE_DIRECTORY, anything else is a command on standard input.

The daemon is a process that holds a lock, its one server another. The simulated driver takes the file `bulkhead-sim-mps` for a
running server. A program of this text under a name with `r590` in it has static partitions: `-d -S`, `sm_partition`, `lspart`, of 16 chunks
of 8 multiprocessors of the simulated H200's 132; an id is the chunks' bits in base64, so that whoever reads two can see them apart, and some have slashes. Clients are the processes that were started with this pipe directory and have loaded libcuda. Tests read HOME/commands,
one command a line (HOME = the directory above the pipe directory), and write HOME/fail, "COMMAND hang|wait|error" a line ("look" is any command that finds no daemon), HOME/say, "COMMAND TEXT" a line, what is answered instead of doing anything, and HOME/status."""
import base64
import fcntl
import os
import pathlib
import signal
import sys
import time

PIPE = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
HOME = PIPE.parent
PARTITIONS = PIPE / "bulkhead-sim-partitions"  # of the simulated driver: "UUID/ID SMS" a line; there is one if it was started with -S
GPU = "GPU-c15c0289-ec2d-0a91-d406-c6f3f7003e53"  # the simulated driver's first
CHUNKS, CHUNK_SMS, SMS = 16, 8, 132


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


def says(word):
    """What is answered whatever is asked, or None."""
    try:
        lines = (HOME / "say").read_text().splitlines()
    except OSError:
        return None
    texts = [line.split(" ", 1)[1] for line in lines if line.startswith(f"{word} ")]
    return "\n".join(texts) if texts else None


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
    note(" ".join(sys.argv[1:]))
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
        if "-S" in sys.argv:
            PARTITIONS.write_text("")
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
    """PID -> what it was started with."""
    mine, found = f"CUDA_MPS_PIPE_DIRECTORY={PIPE}".encode(), {}
    for entry in pathlib.Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if mine in environment and "libcuda.so" in (entry / "maps").read_text():
                found[entry.name] = environment
        except OSError:
            continue  # gone, or not ours
    return found


def partitions():
    """ID -> the bits of its chunks."""
    ids = [line.split()[0].split("/", 1)[1] for line in PARTITIONS.read_text().splitlines()]
    return {i: int.from_bytes(base64.b64decode(i)[:2], "little") for i in ids}


def keep(ids):
    made = PIPE / "partitions.new"
    made.write_text("".join(f"{GPU}/{i} {bits.bit_count() * CHUNK_SMS}\n" for i, bits in ids.items()))
    made.rename(PARTITIONS)


def in_use(i):
    mine = f"CUDA_MPS_SM_PARTITION={GPU}/{i}".encode()
    return any(mine in environment for environment in clients().values())


def list_partitions():
    """With blanks for what a row does not have, and nothing at all before a server runs."""
    if not (PIPE / "started").exists():
        return
    ids = partitions()
    used = sum(bits.bit_count() for bits in ids.values())
    row = "{:<12}  {:<38}{:<8}{:<8}{:<7}{:<7}{}"
    print(row.format("GPU", "Partition", "free", "used", "free", "used", "clients"))
    print(row.format("", "", "chunks", "chunks", "SM", "SM", ""))
    print(row.format(GPU[:8], "", CHUNKS - used, used, SMS - used * CHUNK_SMS, used * CHUNK_SMS, ""))
    for i, bits in ids.items():
        print(row.format(GPU[:8], i, "", bits.bit_count(), "", bits.bit_count() * CHUNK_SMS, "Yes" if in_use(i) else "No"))


def add_partition(gpu, chunks):
    ids = partitions()
    taken = sum(ids.values())
    free = [1 << c for c in range(CHUNKS) if not taken >> c & 1]
    if not GPU.startswith(gpu) or chunks < 1 or chunks > len(free):
        print(f"Failed to fulfill the requested SM partition of {chunks} chunks, error CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION")
        return
    bits = sum(free[:chunks])
    i = base64.b64encode(bits.to_bytes(2, "little") + bytes(25)).decode()
    (PIPE / "started").touch()
    keep({**ids, i: bits})
    print(f"Partition {GPU}/{i} created")


def remove_partition(gpu, i):
    ids = partitions()
    if not GPU.startswith(gpu) or i not in ids or in_use(i):
        print(f"Failed to remove partition {i}")
        return
    keep({k: bits for k, bits in ids.items() if k != i})


def divide(word, rest):
    """A command of a driver that has partitions; False: it is none."""
    if "r590" not in pathlib.Path(sys.argv[0]).name:
        return False
    if word == "start_server":
        (PIPE / "started").touch()
    elif word not in ("lspart", "sm_partition"):
        return False
    elif not PARTITIONS.exists():
        print("Static partitioning is not enabled")
    elif word == "lspart":
        list_partitions()
    elif rest[:1] == ["add"] and len(rest) == 3:
        add_partition(rest[1], int(rest[2]))
    elif rest[:1] == ["rm"] and len(rest) == 3:
        remove_partition(rest[1], rest[2])
    else:
        print("Usage: sm_partition add|rm")
    return True


def quit_daemon():
    for name in ("server.pid", "nvidia-cuda-mps-control.pid"):
        try:
            os.kill(int((PIPE / name).read_text()), signal.SIGKILL)
        except (OSError, ValueError):
            pass
    for name in ("bulkhead-sim-mps", PARTITIONS.name, "started", "server.pid", "nvidia-cuda-mps-control.pid"):
        (PIPE / name).unlink(missing_ok=True)


def answer(line):
    word, *rest = line.split()
    note(line)
    fails(word)
    if (text := says(word)) is not None:
        print(text)
    elif divide(word, rest):
        pass
    elif word == "get_server_list":
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
    if sys.argv[1:] == ["-d"] or (sys.argv[1:] == ["-d", "-S"] and "r590" in pathlib.Path(sys.argv[0]).name):
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
