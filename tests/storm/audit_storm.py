"""Tenants and the daemon killed again and again, by chance, while the tenants' threads record transfers; then the log is asked whether
anything is missing: `bulkhead audit verify` finds nothing but what the log itself tells of, and each entry that a thread was told is recorded is there
exactly once.

    python3 audit_storm.py BUILD_DIR [--kills 40] [--seed N]

Half of the kills are the daemon's, half a tenant's. Prints one JSON line; exits 0 if nothing is lost."""
import argparse
import json
import pathlib
import random
import select
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("build")
parser.add_argument("--kills", type=int, default=40)
parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
options = parser.parse_args()
sys.argv = [sys.argv[0], options.build]  # what the case's module reads
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from audit_log import LogCase  # noqa: E402
from cli_case import main  # noqa: E402

TENANTS, THREADS, ENTRIES = 3, 2, 600


class Storm(LogCase):
    def fresh(self, chance):
        """A tenant's process, with a daemon that answers: each of its threads has a lane before it counts."""
        words = ["fork"] if chance.random() < 0.2 else ["slow"]
        p = self.begin(THREADS, ENTRIES, *words)
        p.forks = words == ["fork"]  # its child would outlive it, and count on: such a one is not killed
        return p

    def over(self, p):
        return p.poll() is not None or select.select([p.stdout], [], [], 0)[0]

    @staticmethod
    def lay_by(p, running, over):
        for pipe in (p.stdin, p.stdout):
            if not pipe.closed:
                pipe.close()
        running.remove(p)
        over.append(p)

    def nothing_but_told_gaps(self):
        """Under observe a child that asks for its lane while no daemon lives goes on without one. The library counts that, and the log says it."""
        report = json.loads(self.verify("--json")[1])
        other = [f for f in report["findings"] if "no lane took their entries" not in f["text"]]
        self.assertEqual(other, [])
        self.assertEqual(len(report["findings"]), report["findings_total"], "all of them were looked at")
        return sum(int(f["text"].split()[0]) for f in report["findings"])

    def test_nothing_is_lost(self):
        chance = random.Random(options.seed)
        print(f"seed {options.seed}", flush=True)
        began = time.monotonic()
        running, over, daemons, tenants = [self.fresh(chance) for _ in range(TENANTS)], [], 0, 0
        while daemons + tenants < options.kills:
            for p in [p for p in running if self.over(p)]:
                self.finish(p)
                self.lay_by(p, running, over)
            while len(running) < TENANTS:
                running.append(self.fresh(chance))
            # at any moment of theirs: a wait by chance is what is tested here, and nothing hangs on its length
            select.select([], [], [], chance.expovariate(1 / 0.02))
            if chance.random() < 0.5:
                self.assertTrue(self.node.kill(), "the daemon ended by itself")
                self.node.start()
                daemons += 1
            else:
                mortal = [p for p in running if not p.forks]
                if not mortal:
                    continue
                p = chance.choice(mortal)
                p.killed = p.poll() is None
                p.kill()
                p.wait()
                self.lay_by(p, running, over)
                tenants += p.killed
        for p in running:
            self.finish(p)
        found = self.check(over + running)
        self.assertEqual(self.node.stop(), 0)
        unrecorded = self.nothing_but_told_gaps()
        print(json.dumps({"kills": daemons + tenants, "daemon": daemons, "tenants": tenants, "sessions": len(self.records("session")),
                          "entries": found, "lost": 0, "undetected_gaps": 0, "told_without_a_lane": unrecorded, "seed": options.seed,
                          "seconds": round(time.monotonic() - began)}), flush=True)


if __name__ == "__main__":
    main()
