"""What each mode of a share is worth to a small model beside a hog, on a GPU: bulkheadd with MPS allowed, unmodified PyTorch.

    check_modes.py --part selftest|sliced|temporal|spatial|slice|eight-sliced|eight-spatial|streams|answers [--seconds 2] [--turns 2]

`selftest` goes first: spatial and slice are in force only with its verdicts. One line of JSON a part; `ok` is that the mode was in force
and everything ran, how good it is is in the figures. Needs root or a user's own BULKHEAD_DIR; MPS is ended with the part."""
import argparse
import json
import os
import pathlib
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from figures import interval
from node import Node, until

HERE = pathlib.Path(__file__).resolve().parent
CONTROL = next((p for p in (shutil.which("nvidia-cuda-mps-control"), "/usr/local/nvidia/bin/nvidia-cuda-mps-control") if p and os.path.exists(p)),
               "nvidia-cuda-mps-control")
GROUP = "serving"
PACE_MS = 5
PATIENCE_S = 40  # of one answer of a load: only ends what hangs


class Load:
    """A program of in_modes.py in a tenant, or in none."""

    def __init__(self, node, kind, tenant=None, words=()):
        words = ["--tenant", tenant] if tenant else words
        run = [node.bulkhead, "run", "-q", *words, "--"] if words else []
        self.name, self.pid = tenant or kind, None
        self.process = subprocess.Popen([*run, sys.executable, str(HERE / "in_modes.py"), kind], env=node.env, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, bufsize=1)
        node.clients.append(self.process)

    def line(self):
        if not select.select([self.process.stdout], [], [], PATIENCE_S)[0]:
            raise RuntimeError(f"{self.name} does not answer")
        said = self.process.stdout.readline()
        if not said:
            raise RuntimeError(f"{self.name} ended with {self.process.wait(PATIENCE_S)}")
        return said

    def ready(self):
        """Multiprocessors that it was told of."""
        sms, self.pid = map(int, self.line().split()[1:])
        return sms

    def kill(self):
        if self.pid:  # `run` above it sees its end
            os.kill(self.pid, signal.SIGKILL)

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")

    def answer(self):
        return json.loads(self.line())


def together(*orders):
    for load, *words in orders:
        load.ask(*words)
    return [load.answer() for load, *_ in orders]


def tenant(name, compute, mode, priority):
    return (f"[[tenant]]\nname = '{name}'\nmemory = '12GiB'\ncompute = '{compute}'\nmode = '{mode}'\npriority = '{priority}'\n"
            + (f"mps_group = '{GROUP}'\n" if mode == "spatial" else ""))


def begin(node, tenants=""):
    node.config.write_text(f"[mps]\nenabled = true\ngroups = ['{GROUP}']\ncontrol = '{CONTROL}'\n" + tenants)
    node.start()


def in_force(node, mode, names):
    """Which enforcer each has; waits for MPS where it is needed."""
    status = node.status()
    found = {t["name"]: t["enforcer"] for t in status["tenants"] if t["name"] in names}
    if mode == "spatial" and set(found.values()) == {"spatial"}:
        until(lambda: any(g["group"] == GROUP and g["state"] == "serving" for g in node.status()["mps_groups"]), "MPS serves", 15)
    return found, node.status().get("condition", "")


def beside(node, mode, options):
    """The model alone, the hog alone, both; closed loop and one request each PACE_MS."""
    if mode == "sliced":
        begin(node)
        mlp, hog, found, condition = Load(node, "mlp"), Load(node, "gemm"), {}, ""
    else:
        begin(node, tenant("model", "25%", "spatial" if mode == "spatial" else "temporal", "latency") + tenant("hog", "75%", mode, "batch"))
        found, condition = in_force(node, mode, ("model", "hog"))
        mlp, hog = Load(node, "mlp", "model"), Load(node, "gemm", "hog")
    sms = [mlp.ready(), hog.ready()]
    s = options.seconds
    hog_alone, = together((hog, "closed", s))
    alone, both, hog_both = in_turns(options, mlp, hog, ("closed", s))
    paced_alone, paced, hog_paced = in_turns(options, mlp, hog, ("paced", s, PACE_MS))
    ratios, paced_ratios = ([y["p99_ms"] / x["p99_ms"] for x, y in zip(one, two)] for one, two in ((alone, both), (paced_alone, paced)))
    return (not found or found["hog"] == mode), {
        "enforcer": found, "condition": condition, "sms": sms, "turns": options.turns, "alone": middle(alone), "beside": middle(both),
        "paced_alone": middle(paced_alone), "paced_beside": middle(paced), "p99_to_alone": round(statistics.median(ratios), 3),
        "p99_interval": interval(ratios), "paced_p99_to_alone": round(statistics.median(paced_ratios), 3),
        "paced_p99_interval": interval(paced_ratios), "hog_alone_per_s": hog_alone["per_s"], "hog_per_s": middle(hog_both)["per_s"],
        "hog_beside_paced_per_s": middle(hog_paced)["per_s"], "status": shares(node)}


def in_turns(options, mlp, hog, order):
    """The model alone and beside the hog, A B B A: what each said in each turn. The hog is at work a little before and after."""
    alone, both, hogs = [], [], []

    def beside_it():
        hog.ask("closed", order[1] + 0.3)
        time.sleep(0.15)
        mlp.ask(*order)
        both.append(mlp.answer())
        hogs.append(hog.answer())
    for turn in range(options.turns):
        if turn % 2:
            beside_it()
        alone += together((mlp, *order))
        if turn % 2 == 0:
            beside_it()
    return alone, both, hogs


def middle(said):
    """Each figure's median over the turns; n is of all."""
    return {k: sum(x[k] for x in said) if k == "n" else round(statistics.median(x[k] for x in said), 4) for k in said[0]}


def shares(node):
    try:
        return {t["name"]: t["devices"][0].get("time") for t in node.status()["tenants"]}
    except (ValueError, KeyError, IndexError, subprocess.TimeoutExpired) as error:
        return str(error)


def eight(node, mode, options):
    """Eight models in closed loops: all of their requests each second."""
    names = [f"m{i}" for i in range(8)]
    begin(node, "" if mode == "sliced" else "".join(tenant(n, "12.5%", mode, "latency") for n in names))
    found, condition = ({}, "") if mode == "sliced" else in_force(node, mode, names)
    loads = [Load(node, "mlp", None if mode == "sliced" else n) for n in names]
    sms = [load.ready() for load in loads]
    alone, = together((loads[0], "closed", options.seconds))
    said = together(*((load, "closed", options.seconds * 1.5) for load in loads))
    return all(v == mode for v in found.values()), {
        "enforcer": found, "condition": condition, "sms": sms, "alone": alone, "total_per_s": round(sum(x["per_s"] for x in said), 1),
        "least_per_s": min(x["per_s"] for x in said), "p99_ms": [x["p99_ms"] for x in said]}


def selftest(node, _):
    """doctor --self-test, whole."""
    begin(node)
    r = node.call("doctor", "--self-test", "--mps-control", CONTROL)
    print(r.stdout + r.stderr, flush=True)
    kept = pathlib.Path("/var/lib/bulkhead") if os.geteuid() == 0 else pathlib.Path(os.environ.get("XDG_STATE_HOME", "~/.local/state")).expanduser() / "bulkhead"
    if node.env.get("BULKHEAD_SIM"):
        kept = node.dir / "sim"
    return r.returncode == 0, {"control": CONTROL, "rc": r.returncode, "kept": json.loads((kept / "selftest.json").read_text())}


def answers(node, _):
    """What the control program says to each command, with a client, after terminate_client, after a client's SIGKILL."""
    begin(node, tenant("model", "25%", "spatial", "latency") + tenant("hog", "50%", "spatial", "batch"))
    found, condition = in_force(node, "spatial", ("model", "hog"))
    pipe = node.dir / "mps" / str(os.geteuid()) / GROUP / "pipe"
    said = []

    def order(text):
        r = subprocess.run([CONTROL], input=text + "\n", env={**node.env, "CUDA_MPS_PIPE_DIRECTORY": str(pipe)}, text=True,
                           capture_output=True, timeout=15)
        said.append({"order": text, "rc": r.returncode, "out": r.stdout[-400:], "err": r.stderr[-200:]})
        return r.stdout.split()

    order("get_server_list")
    model, hog = Load(node, "mlp", "model"), Load(node, "gemm", "hog")
    for load in (model, hog):
        load.ready()
    server = (order("get_server_list") or ["0"])[0]
    for text in (f"get_client_list {server}", f"get_server_status {server}", "get_device_client_list", "ps", "lspart", "sm_partition",
                 "get_default_active_thread_percentage", "get_server_status 1", "nonsense"):
        order(text)
    ends = {}
    for how in ("terminated idle", "terminated busy", "killed busy"):
        if model.process.poll() is not None:
            model = Load(node, "mlp", "model")
            model.ready()
        if hog.process.poll() is not None or "server" in ends:
            hog = Load(node, "gemm", "hog")
            hog.ready()
        server = (order("get_server_list") or ["0"])[0]
        if how != "terminated idle":
            hog.ask("closed", 5)
        model.ask("closed", 1.5)
        time.sleep(0.4)
        if how == "killed busy":
            os.kill(hog.pid, signal.SIGKILL)
        else:
            order(f"terminate_client {server} {hog.pid}")
        order(f"get_server_status {server}")
        ends[f"model beside {how}"] = model_says(model)
        if how == "terminated idle":
            hog.ask("closed", 0.1)
        ends[f"hog {how}"] = model_says(hog)
        ends["server"] = server
        order("get_server_list")
        order(f"get_server_status {server}")
        order(f"get_client_list {server}")
    time.sleep(5.5)  # the daemon asks each 5 s
    events = [f"{e['kind']}: {e['text']}" for e in map(json.loads, node.call("events", "--json").stdout.splitlines()) if e["kind"].startswith("mps")]
    return set(found.values()) == {"spatial"}, {"enforcer": found, "condition": condition, "said": said, **ends, "events": events}


def model_says(model):
    try:
        return model.answer()
    except (RuntimeError, ValueError, OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def divided(node, options):
    """One process: small products on a stream of a high priority beside a hog on another, without and with --streams."""
    begin(node)
    out = {}
    for name, words in (("together", []), ("divided", ["--streams", "high=25%"])):
        p = Load(node, "parts", None, ["--memory", "12GiB", *words])
        p.ready()
        p.ask("parts", options.seconds)
        out[name] = p.answer()
        t = next((t for t in node.status()["tenants"] if t["devices"][0]["streams"]["placed"]), None)
        out[name]["streams"] = t and t["devices"][0]["streams"]
    refused = node.call("run", "-q", "--memory", "1GiB", "--streams", "high=1%", "--", "/bin/true")
    out["too_small"] = refused.stderr.strip()
    return out["divided"]["streams"] is not None, out


PARTS = {"selftest": selftest, "answers": answers, "streams": divided,
         **{mode: (lambda node, options, mode=mode: beside(node, mode, options)) for mode in ("sliced", "temporal", "spatial", "slice")},
         **{f"eight-{mode}": (lambda node, options, mode=mode: eight(node, mode, options)) for mode in ("sliced", "spatial")}}


def children_of(pid):
    try:
        return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def end(node):
    for client in node.clients:
        for child in children_of(client.pid):
            os.kill(child, signal.SIGKILL)  # before `run`, or nobody knows it
        client.kill()
        client.communicate()
    if node.process and node.process.poll() is None:
        node.process.send_signal(signal.SIGTERM)
        try:
            node.process.wait(10)
        except subprocess.TimeoutExpired:
            node.kill()
    logs = {}
    for home in node.dir.glob("mps/*/*"):
        try:
            subprocess.run([CONTROL], input="quit -t 2\n", env={**node.env, "CUDA_MPS_PIPE_DIRECTORY": str(home / "pipe")}, text=True,
                           capture_output=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            pass
        for log in (home / "log").glob("*.log"):
            logs[log.name] = log.read_text(errors="replace")[-700:]
    return logs


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", required=True, choices=PARTS)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--turns", type=int, default=2, help="of a load alone and beside the hog; p99 is compared turn by turn")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    line = {"check": f"modes: {options.part}", "ok": False}
    home = tempfile.mkdtemp(prefix="bhm")
    env = {**os.environ, "BULKHEAD_DIR": os.environ.get("BULKHEAD_DIR", f"{home}/d")}
    node = Node(os.environ["BULKHEAD"], env, sight=False)
    begun = time.monotonic()
    try:
        line["ok"], figures = PARTS[options.part](node, options)
        line.update(figures)
    except (RuntimeError, subprocess.TimeoutExpired, OSError, ValueError, KeyError, IndexError) as error:
        line.update(ok=False, error=f"{type(error).__name__}: {error}"[:500])
    except SystemExit:
        line.update(ok=False, error="out of time")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        logs = end(node)
        if not line["ok"] or options.part == "answers":
            line["mps_logs"] = logs
        line["took_s"] = round(time.monotonic() - begun, 1)
        print(json.dumps(line), flush=True)
        shutil.rmtree(home, ignore_errors=True)
    return 0 if line["ok"] else 1


sys.exit(main())
