"""What the storms of check_storm.py and check_daemon.py run inside their tenant: workers that allocate until they are killed,
who kills them, and how much a lone process gets.

    in_storm.py --worker | --fill | --hold | --crew KILLS AT_A_TIME SECONDS SEED | --reuse TIMES"""
import json
import os
import random
import select
import signal
import subprocess
import sys
import time

MIB = 1 << 20


def worker():
    """Takes and frees; one byte on stdout once it holds memory."""
    from cuda_driver import Driver
    cu = Driver()
    cu.primary()
    rng, held, told = random.Random(os.getpid()), [], False
    while True:
        if held and (len(held) > 12 or rng.random() < 0.4):
            cu.free(held.pop(rng.randrange(len(held))))
        else:
            got = cu.alloc(rng.randrange(1, 64 * MIB))
            if got is not None:
                held.append(got)
        if held and not told:
            told = True
            os.write(1, b"h")


def crew(kills, at_a_time, seconds, seed):
    """Starts and kills workers; makes no context itself."""
    rng, end = random.Random(seed), time.monotonic() + seconds
    live, started, done, holding, wrong = {}, 0, 0, 0, 0
    while done < kills:
        while len(live) < at_a_time and started < kills and time.monotonic() < end:
            child = subprocess.Popen([sys.executable, __file__, "--worker"], stdout=subprocess.PIPE,
                                     stderr=subprocess.DEVNULL)
            now = time.monotonic()
            # None: to be killed some time after it holds memory
            live[child.stdout.fileno()] = [child, now + rng.uniform(0, 1.5) if rng.random() < 0.5 else None, now, False]
            started += 1
        if not live:
            break
        for fd in select.select(list(live), [], [], 0.005)[0]:
            entry = live[fd]
            if os.read(fd, 1):
                entry[3] = True
                if entry[1] is None:
                    entry[1] = time.monotonic() + rng.uniform(0, 0.1)
            else:  # died by itself
                wrong += 1
                entry[1] = 0
        now = time.monotonic()
        for fd, (child, when, since, holds) in list(live.items()):
            if (when is not None and now >= when) or now - since > 20:
                child.kill()
                wrong += child.wait() != -signal.SIGKILL
                child.stdout.close()
                del live[fd]
                done += 1
                holding += holds
    print(json.dumps({"kills": done, "while_holding": holding, "died_otherwise": wrong}), flush=True)


def fill():
    """How much a lone process of the tenant gets."""
    from cuda_driver import Driver
    cu = Driver()
    cu.primary()
    used, taken, size = cu.used(), 0, 256 * MIB
    while size >= 2 * MIB:
        if cu.alloc(size) is None:
            size //= 2
        else:
            taken += size
    print(json.dumps({"used_before_bytes": used, "taken_bytes": taken}), flush=True)


def hold():
    from cuda_driver import Driver
    cu = Driver()
    cu.primary()
    cu.alloc(6 << 30)
    print("held", flush=True)
    sys.stdin.read()


def reuse(times):
    """Kills a holder of 6 GiB and takes 6 GiB, `times` times; prints the times in milliseconds."""
    from cuda_driver import Driver
    cu = Driver()
    cu.primary()
    death_ms, reuse_ms, failed = [], [], 0
    for _ in range(times):
        child = subprocess.Popen([sys.executable, __file__, "--hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if child.stdout.readline().strip() != "held" or cu.alloc(6 << 30) is not None:
            failed += 1
        watch = os.pidfd_open(child.pid)
        begin = time.monotonic()
        child.kill()
        select.select([watch], [], [], 20)
        reported = time.monotonic()
        got, give_up = None, reported + 20
        while got is None and time.monotonic() < give_up:
            got = cu.alloc(6 << 30)
        granted = time.monotonic()
        child.wait()
        os.close(watch)
        if got is None:
            failed += 1
            continue
        cu.free(got)
        death_ms.append((reported - begin) * 1e3)
        reuse_ms.append((granted - reported) * 1e3)
    print(json.dumps({"death_ms": death_ms, "reuse_ms": reuse_ms, "failed": failed}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--crew":
        crew(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
    elif sys.argv[1] == "--reuse":
        reuse(int(sys.argv[2]))
    else:
        {"--worker": worker, "--fill": fill, "--hold": hold}[sys.argv[1]]()
