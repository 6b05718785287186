#!/usr/bin/env python3
"""Collectives in tenants (row 15 of the targets): NCCL's all-reduce on two GPUs by unmodified PyTorch, with a daemon of its own.

    check_nccl.py [--repeats 9] [--collectives 12000] [--part bandwidth|caps|all]

bandwidth: 8 B to 1 GiB in one tenant over both GPUs, its share set to 100, 50 and 25 % in turn, beside the same without the library,
    turn by turn; bus bandwidth is bytes / time for two ranks.
caps: a matrix product and an all-reduce, 12,000 times, with a tenant a rank at 30 and 70 % (share_with: each may import the other's
    memory), over NVLink and through the host. The same in one tenant at 50 % is part of bandwidth. No progress for 40 s is a hang.

NVLink multicast is off. One line of JSON; `ok`: nothing hung, every sum was right, collectives were counted and a rank was held, the bandwidth at
every share and size >= 0.95 of native. With one GPU nothing is run and `ok` is null."""
import argparse
import json
import os
import pathlib
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from node import Node

HERE = pathlib.Path(__file__).resolve().parent
HANG_S = 40
SHARES = (100, 50, 25)
SIZES = ((8, 2000, 5), (1 << 20, 1000, 5), (16 << 20, 400, 1), (256 << 20, 40, 1), (1 << 30, 12, 1))  # bytes, calls, pairs a repeat: small ones scatter
GOAL = 0.95
NAMES = {8: "8 B", 1 << 20: "1 MiB", 16 << 20: "16 MiB", 256 << 20: "256 MiB", 1 << 30: "1 GiB"}


class Hang(RuntimeError):
    pass


class Ranks:
    """The two ranks of one group: one program (`both`), or two with a tenant each."""
    number = 0

    def __init__(self, node, scratch, tenants=(), words=(), **variables):
        Ranks.number += 1
        store = f"{scratch}/store-{Ranks.number}"
        parts = [(tenants[0] if tenants else None, "both")] if len(tenants) < 2 else list(zip(tenants, ("0", "1")))
        env = {**{k: v for k, v in node.env.items() if k != "NCCL_DEBUG"}, "PYTHONUNBUFFERED": "1", **variables}  # its words go to stdout
        self.parts = []
        for tenant, what in parts:
            run = [node.bulkhead, "run", "-q", "--tenant", tenant, *words, "--"] if tenant else []
            self.parts.append(subprocess.Popen([*run, sys.executable, str(HERE / "in_nccl.py"), what, store], env=env, text=True,
                                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True))
        self.lines = queue.Queue()
        for part in self.parts:
            threading.Thread(target=self.read, args=(part,), daemon=True).start()

    def read(self, part):
        for line in part.stdout:
            self.lines.put(line.split())
        self.lines.put(None)

    def answer(self, watchdog_s=HANG_S):
        try:
            line = self.lines.get(timeout=watchdog_s)
        except queue.Empty:
            raise Hang(f"no word for {watchdog_s} s") from None
        if line is None:
            raise RuntimeError(f"a rank ended with {[p.poll() for p in self.parts]}")
        return line

    def order(self, *words):
        for part in self.parts:
            part.stdin.write(" ".join(str(w) for w in words) + "\n")
            part.stdin.flush()

    def ready(self):
        line = self.answer(60)
        if line[0] != "ready":
            raise RuntimeError(f"not ready: {line}")
        self.order("check")
        if self.answer() != ["sum", "1"]:
            raise RuntimeError("the sum is wrong")
        return ".".join(word.strip("(),") for word in line[1:])

    def time_us(self, size, count):
        self.order("time", size, count)
        return float(self.answer()[0])

    def mixed(self, count):
        """Seconds of it; Hang if it stands still."""
        self.order("mixed", count)
        done = 0
        while True:
            try:
                word, value = self.answer()
            except Hang:
                raise Hang(f"no progress for {HANG_S} s behind {done} of {count} collectives") from None
            if word == "took":
                return float(value)
            done = int(value)

    def end(self):
        for part in self.parts:
            try:
                part.stdin.close()
            except OSError:
                pass  # it is dead: an order was never read
        for part in self.parts:
            try:
                part.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
        for part in self.parts:
            part.stdout.close()

    def kill(self):
        for part in self.parts:
            try:
                os.killpg(part.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            part.wait()


def counted(node, tenant):
    """What the library counted for the tenant, both GPUs together."""
    devices = node.status(tenant)["devices"]
    times = [d["time"] for d in devices if d["time"]]
    return {"collectives_counted": sum(d["counted"]["stream_ops"]["collective"] for d in devices),
            "held_s": round(sum(t["held_ns"] for t in times) / 1e9, 3), "used_s": round(sum(t["used_ns"] for t in times) / 1e9, 3)}


def median(values, digits=4):
    return round(statistics.median(values), digits)


def bandwidth(node, scratch, options, line, kept):
    native = kept("native", Ranks(node, scratch))
    ours = kept("ours", Ranks(node, scratch, ("both-gpus",), ("--memory", "30GiB", "--compute", "100%")))
    line["nccl"] = native.ready()
    ours.ready()
    taken = {}
    for repeat in range(options.repeats):
        turns = ((native, 0), (ours, 1)) if repeat % 2 == 0 else ((ours, 1), (native, 0))
        for share in SHARES:
            done = node.call("set", "both-gpus", "--compute", f"{share}%")
            if done.returncode != 0:
                raise RuntimeError(f"set {share}%: {done.stderr.strip()}")
            for size, count, pairs in SIZES:
                pair = taken.setdefault((size, share), ([], []))
                for turn in range(pairs):
                    for ranks, at in turns[::-1] if turn % 2 else turns:
                        pair[at].append(ranks.time_us(size, count))
    low, figures = [], {}
    for (size, share), (a, b) in taken.items():
        ratios = [x / y for x, y in zip(a, b)]
        one = figures.setdefault(NAMES[size], {"native_us": median([t for s in SHARES for t in taken[size, s][0]], 2)})
        one["native_GB_s"] = round(size / one["native_us"] / 1e3, 2)
        one[f"at_{share}"] = {"us": median(b, 2), "GB_s": round(size / statistics.median(b) / 1e3, 2), "to_native": median(ratios),
                              "spread": [round(min(ratios), 4), round(max(ratios), 4)]}
        low.append(statistics.median(ratios))
    line["all_reduce"] = figures
    line["lowest_to_native"] = round(min(low), 4)
    node.call("set", "both-gpus", "--compute", "50%")
    before = counted(node, "both-gpus")
    seconds, native_s = ours.mixed(options.collectives), native.mixed(options.collectives)
    after = counted(node, "both-gpus")
    line["one_tenant_50"] = {"collectives": options.collectives, "seconds": round(seconds, 2), "native_seconds": round(native_s, 2),
                             **{k: round(after[k] - before[k], 3) for k in after}}
    return min(low) >= GOAL and line["one_tenant_50"]["held_s"] > 0 and \
        line["one_tenant_50"]["collectives_counted"] >= options.collectives


def caps(node, scratch, options, line, kept):
    """30 and 70 %, a tenant a rank."""
    ways = {"by NVLink": {}, "through the host": {"NCCL_P2P_DISABLE": "1"}}
    ranks = {way: kept(way, Ranks(node, scratch, ("rank-30", "rank-70"), **env)) for way, env in ways.items()}
    good = True
    for way, two in ranks.items():
        said = line.setdefault("caps_30_70", {}).setdefault(way, {})
        try:
            two.ready()
            before = {t: counted(node, t) for t in ("rank-30", "rank-70")}
            said |= {"collectives": options.collectives, "seconds": round(two.mixed(options.collectives), 2)}
            for tenant, had in before.items():
                now = counted(node, tenant)
                said[tenant] = {k: round(now[k] - had[k], 3) for k in now}
            good = good and said["rank-30"]["held_s"] > 0 and said["rank-30"]["collectives_counted"] >= options.collectives
        except (RuntimeError, OSError, KeyError, TypeError) as error:
            said |= {"hung" if isinstance(error, Hang) else "error": str(error)[-300:]}
            good = False
            two.kill()
    return good


def gpus():
    try:
        return len(subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout.splitlines())
    except OSError:
        return 0


SHARED = "".join(f"[[tenant]]\nname = \"{name}\"\nmemory = \"30GiB\"\ncompute = \"{share}%\"\nshare_with = [\"{other}\"]\n"
                 for name, share, other in (("rank-30", 30, "rank-70"), ("rank-70", 70, "rank-30")))
PARTS = (("bandwidth", bandwidth, ""), ("caps", caps, SHARED))


def time_is_over(*_):
    raise RuntimeError("the time is over")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--collectives", type=int, default=12000)
    parser.add_argument("--part", choices=("all", "bandwidth", "caps"), default="all")
    parser.add_argument("--seconds", type=int, default=145, help="ends what takes longer")
    options = parser.parse_args()
    line, begin = {"check": "NCCL in tenants", "ok": True}, time.monotonic()
    if gpus() < 2:
        print(json.dumps({**line, "ok": None, "skipped": "it needs two GPUs"}))
        return 0
    scratch = tempfile.mkdtemp(prefix="bulkhead-nccl-")
    signal.signal(signal.SIGTERM, time_is_over)
    signal.signal(signal.SIGALRM, time_is_over)
    signal.alarm(options.seconds)
    for name, part, config in PARTS:
        if options.part not in ("all", name):
            continue
        node = Node(os.environ["BULKHEAD"], {**os.environ, "BULKHEAD_DIR": f"{scratch}/{name}"}, sight=False)
        node.config.write_text(config)
        all_ranks = {}
        try:
            node.start()
            line["ok"] = part(node, scratch, options, line, lambda key, ranks: all_ranks.setdefault(key, ranks)) and line["ok"]
        except (RuntimeError, OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
            line |= {"ok": False, f"{name}_error": f"{type(error).__name__}: {error}"[-400:]}
            for ranks in all_ranks.values():
                ranks.kill()
        for ranks in all_ranks.values():
            ranks.end()
        if node.process is not None and node.stop() != 0:
            line |= {"ok": False, f"{name}_daemon": "it did not end by itself"}
    signal.alarm(0)
    shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps({**line, "seconds": round(time.monotonic() - begin, 1)}))
    return 0 if line["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
