"""What share of the GPU's time unmodified PyTorch gets under --compute: alone at 25 and 50 %, and two tenants at 30 and 70 %.

    check_compute.py [--seconds 2]

One line of JSON. `ok` is that everything ran; how near the shares are to what was asked is in the figures, in points."""
import argparse
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
BULKHEAD = os.environ["BULKHEAD"]


class Load:
    def __init__(self, kind, seconds, share, native=False):
        run = [] if native else [BULKHEAD, "run", "-q", "--memory", "20GiB", *(["--compute", share] if share else []), "--"]
        self.process = subprocess.Popen([*run, sys.executable, str(HERE / "in_compute.py"), kind, str(seconds)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def ready(self):
        if self.process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"it ended with {self.process.wait()}")

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def rate(self):
        said = self.process.communicate(timeout=120)[0].split()
        if not said:
            raise RuntimeError(f"it ended with {self.process.returncode}")
        return float(said[-1])


def together(*loads):
    for load in loads:
        load.ready()
    for load in loads:
        load.go()
    return [load.rate() for load in loads]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2)
    seconds = parser.parse_args().seconds
    line = {"check": "shares of PyTorch", "ok": True}
    try:
        for kind in ("gemm", "decode"):
            native, = together(Load(kind, seconds, None, native=True))
            free, = together(Load(kind, seconds, None))
            figures = {"native_per_s": native, "no_share_to_native": free / native}
            for share in (25, 50):
                got, = together(Load(kind, seconds, f"{share}%"))
                figures[f"alone_{share}_points"] = 100 * got / native - share
            a, b = together(Load(kind, seconds, "30%"), Load(kind, seconds, "70%"))
            figures["part_of_30"] = 100 * a / (a + b)
            figures["both_to_native"] = (a + b) / native
            line[kind] = {k: round(v, 3) for k, v in figures.items()}
    except (RuntimeError, subprocess.TimeoutExpired, OSError) as error:
        line.update(ok=False, error=str(error))
    print(json.dumps(line))
    return 0 if line["ok"] else 1


sys.exit(main())
