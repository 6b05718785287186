"""Processes of in_work.py or the like in a tenant, or in none: for check_density.py, check_end_to_end.py and check_compute.py."""
import json
import os
import pathlib
import select
import signal
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
PATIENCE_S = 60  # of one answer: only ends what hangs


class Load:
    def __init__(self, node, words, run=None, program="in_work.py", **variables):
        """`run`: the words of `bulkhead run` before --, None: without."""
        before = [node.bulkhead, "run", "-q", *run, "--"] if run is not None else []
        self.name = " ".join(run or ["native"])
        self.process = subprocess.Popen([*before, sys.executable, str(HERE / program), *words], env={**node.env, **variables},
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        node.clients.append(self.process)

    def line(self):
        if not select.select([self.process.stdout], [], [], PATIENCE_S)[0]:
            raise RuntimeError(f"{self.name} does not answer")
        said = self.process.stdout.readline()
        if not said:
            raise RuntimeError(f"{self.name} ended with {self.process.wait(PATIENCE_S)}")
        return said

    def stay_on(self, core):
        """All its threads there, from now on."""
        for task in os.listdir(f"/proc/{self.pid}/task"):
            os.sched_setaffinity(int(task), {core})

    def ready(self):
        """Multiprocessors that it was told of."""
        word, sms, pid = self.line().split()
        self.pid = int(pid)
        if word != "ready":
            raise RuntimeError(f"{self.name} said {word}")
        return int(sms)

    def ask(self, kind, seconds):
        self.process.stdin.write(f"closed {kind} {seconds}\n")

    def answer(self):
        return json.loads(self.line())


def together(loads, kind, seconds):
    for load in loads:
        load.ask(kind, seconds)
    return [load.answer() for load in loads]


def children_of(pid):
    try:
        return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def end(node):
    """Ends the programs by the end of their input, all at once; who does not hear it is killed, a tenant's process before the `run` above it."""
    for client in node.clients:
        try:
            client.stdin.close()
        except OSError:
            pass  # dead, with an order unread
    for client in node.clients:
        try:
            client.wait(10)
        except subprocess.TimeoutExpired:
            for child in children_of(client.pid):
                os.kill(child, signal.SIGKILL)
            client.kill()
            client.wait()
        client.stdout.close()
    node.clients = []
