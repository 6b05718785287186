#!/usr/bin/env python3
"""Auditing as a whole with a daemon of its own: every copy of unmodified PyTorch (training, inference, graph replays) is in the log,
counted beside CUPTI's callbacks; and without a grant nothing moves under enforce.

    check_audit.py --part observe|enforce|refused [--steps 50] [--program in_copies.py]

One line of JSON. `ok` of the first two: nothing is missing, the log verifies, and every entry was decided as the mode says (observed; allowed by the grant).
`refused`: the program ends with the driver's 800, and each entry of the log is denied."""
import argparse
import collections
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from check_copies import exported
from node import Node

HERE = pathlib.Path(__file__).resolve().parent
SUBJECT, AUDIENCE = "spiffe://firm.example/copies", "node1"


def good(node, *words):
    done = node.call(*words)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words[:2])}: {done.stderr.strip()[-200:]}")
    return done.stdout


def configure(node, scratch, mode):
    good(node, "grant", "keygen", "--key", f"{scratch}/issuer.pem", "--jwks", f"{scratch}/jwks.json")
    node.config.write_text(f'[audit]\ndir = "{scratch}/log"\ndeadline_ms = 10000\n[trust]\njwks = "{scratch}/jwks.json"\naudience = "{AUDIENCE}"\n'
                           f'[[tenant]]\nname = "copies"\nmemory = "20GiB"\naudit = "{mode}"\ngrant_subject = "{SUBJECT}"\n')


def issue(node, scratch):
    gpus = ",".join("GPU-" + g["uuid"].removeprefix("GPU-") for g in node.status()["gpus"])
    good(node, "grant", "issue", "--key", f"{scratch}/issuer.pem", "--subject", SUBJECT, "--audience", AUDIENCE, "--actions",
         "h2d,d2h,d2d,p2p,set,h2h,map", "--gpu", gpus, "--class", "public", "--for", "10m", "--out", f"{scratch}/copies.jwt")
    return ["--grant", f"{scratch}/copies.jwt"]


def copies(node, scratch, options, mode):
    words = issue(node, scratch) if mode == "enforce" else []
    done = subprocess.run([sys.executable, str(HERE / "check_copies.py"), "--tenant", "copies", "--log", f"{scratch}/log", "--steps",
                           str(options.steps), "--program", options.program, *words], env={**node.env, "BULKHEAD": node.bulkhead},
                          stdout=subprocess.PIPE, text=True, timeout=80)
    said = json.loads(done.stdout.splitlines()[-1])
    want = {"allowed"} if mode == "enforce" else {"observed"}
    return said["ok"] and set(said["decisions"]) == want, {k: v for k, v in said.items() if k not in ("check", "ok")}


def observe(node, scratch, options):
    return copies(node, scratch, options, "observe")


def enforce(node, scratch, options):
    return copies(node, scratch, options, "enforce")


def refused(node, scratch, options):
    done = node.call("run", "-q", "--tenant", "copies", "--", sys.executable, options.program, "--steps", "1")
    lines = [json.loads(line) for line in exported(node.bulkhead, f"{scratch}/log")]
    decisions = collections.Counter(e["decision"] for e in lines if e.get("kind") in ("transfer", "map"))
    text = done.stderr.strip().splitlines()[-1:] or [""]
    return done.returncode != 0 and set(decisions) == {"denied"}, {"exit": done.returncode, "last_words": text[0][-200:], "decisions": dict(decisions)}


PARTS = {"observe": (observe, "observe", "audit: every copy of PyTorch is in the log, observe"),
         "enforce": (enforce, "enforce", "audit: every copy of PyTorch is in the log, enforce with a grant"),
         "refused": (refused, "enforce", "audit: without a grant nothing moves")}


def time_is_over(*_):
    raise RuntimeError("the time is over")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=list(PARTS), required=True)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--program", default=str(HERE / "in_copies.py"))
    options = parser.parse_args()
    part, mode, name = PARTS[options.part]
    scratch, begin = tempfile.mkdtemp(prefix="bulkhead-audit-"), time.monotonic()
    node = Node(os.environ["BULKHEAD"], {**os.environ, "BULKHEAD_DIR": scratch + "/dir"}, sight=False)
    line = {"check": name, "ok": False}
    signal.signal(signal.SIGTERM, time_is_over)
    try:
        configure(node, scratch, mode)
        node.start()
        ok, figures = part(node, scratch, options)
        line |= {"ok": ok, **figures}
    except (RuntimeError, OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError) as error:
        line["error"] = f"{type(error).__name__}: {error}"[-500:]
    if node.process is not None and node.stop() != 0:
        line |= {"ok": False, "daemon": "it did not end by itself"}
    done = node.call("audit", "verify", f"{scratch}/log", "--key", f"{scratch}/log/host.pub")
    line |= {"ok": line["ok"] and done.returncode == 0, "verified": (done.stdout or done.stderr).splitlines()[0][:200] if done.stdout or done.stderr else ""}
    shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps({**line, "seconds": round(time.monotonic() - begin, 1)}))
    return 0 if line["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
