"""PyTorch copies, sets and graph replays, with every call of the driver's API counted by CUPTI callbacks: what check_copies.py holds
against the audit log.

    in_copies.py [--steps 50]      one line of JSON: calls by base name, and graph launches with the copies of each"""
import argparse
import collections
import ctypes
import glob
import json
import os
import re
import sys

DRIVER_API = 1  # CUPTI_CB_DOMAIN_DRIVER_API
ENTER = 0       # CUPTI_API_ENTER
MOVES = re.compile("^(cuMemcpy|cuMemset|cuMemPrefetch|cuStreamWriteValue|cuStreamBatchMemOp|cuGraphLaunch|cuMemHostAlloc|cuMemAllocHost|"
                   "cuMemHostRegister|cuMemAllocManaged|cuCtxEnablePeerAccess|cuIpc(Get|Open)MemHandle)")


class CallbackData(ctypes.Structure):
    """The first members of CUpti_CallbackData (cupti_callbacks.h)."""
    _fields_ = [("site", ctypes.c_int), ("function", ctypes.c_char_p), ("params", ctypes.c_void_p), ("result", ctypes.c_void_p),
                ("symbol", ctypes.c_char_p), ("context", ctypes.c_void_p), ("context_uid", ctypes.c_uint32)]


CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.POINTER(CallbackData))


def base_name(name):
    return re.sub(r"(_v\d+)?(_pt[ds][sz])?$", "", name)


def cupti():
    """The toolkit's library, or the one that PyTorch's packages bring."""
    places = ["libcupti.so", "libcupti.so.12", "libcupti.so.13"]
    for root in sys.path:
        places += glob.glob(os.path.join(root, "nvidia/**/libcupti.so*"), recursive=True)
    for place in places:
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    raise RuntimeError("no libcupti")


class Calls:
    """Counts driver calls by base name from start() on. A call that is captured counts apart: it moves nothing."""

    def __init__(self):
        self.seen, self.captured, self.capturing = collections.Counter(), collections.Counter(), False
        self.library, self.subscriber = cupti(), ctypes.c_void_p()
        self.callback = CALLBACK(self.called)  # kept: the library calls it

    def called(self, _user, _domain, _id, data):
        if data.contents.site != ENTER or not data.contents.function:
            return
        name = data.contents.function.decode()
        if MOVES.match(name):
            (self.captured if self.capturing else self.seen)[base_name(name)] += 1

    def start(self):
        for result in (self.library.cuptiSubscribe(ctypes.byref(self.subscriber), self.callback, None),
                       self.library.cuptiEnableDomain(1, self.subscriber, DRIVER_API)):
            if result != 0:
                raise RuntimeError(f"CUPTI answers {result}")

    def stop(self):
        self.library.cuptiUnsubscribe(self.subscriber)


def train(torch, steps):
    model = torch.nn.Sequential(torch.nn.Linear(1024, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 10)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batch = torch.randn(256, 1024).pin_memory()
    side = torch.cuda.Stream()
    for _ in range(steps):
        with torch.cuda.stream(side):
            x = batch.to("cuda", non_blocking=True)
        torch.cuda.current_stream().wait_stream(side)
        loss = model(x).square().mean()
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        loss.item()
    return {k: v.cpu() for k, v in model.state_dict().items()}


def infer(torch, steps):
    """Half-precision inference of a small transformer: tokens in, logits out, weights read back once."""
    layer = torch.nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    model = torch.nn.Sequential(torch.nn.Embedding(1000, 512), torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
                                torch.nn.Linear(512, 1000)).cuda().half().eval()
    out = torch.empty(4, 64, 1000, dtype=torch.half, pin_memory=True)
    with torch.no_grad():
        for i in range(steps):
            tokens = torch.randint(0, 1000, (4, 64))
            logits = model(tokens.cuda())
            out.copy_(logits, non_blocking=True)
            if i % 8 == 0:
                logits.argmax(-1).tolist()
    torch.cuda.synchronize()


def replay(torch, calls, times):
    """A graph of two copies and a set, replayed; the copies are counted when it is launched."""
    a, b = (torch.zeros(1 << 20, device="cuda") for _ in range(2))
    graph = torch.cuda.CUDAGraph()
    b.copy_(a)  # once outside: nothing is loaded lazily inside
    torch.cuda.synchronize()
    calls.capturing = True
    with torch.cuda.graph(graph):
        b.copy_(a)
        a.copy_(b)
        b.zero_()
    calls.capturing = False
    inside = sum(n for name, n in calls.captured.items() if name.startswith(("cuMemcpy", "cuMemset")))
    for _ in range(times):
        graph.replay()
    torch.cuda.synchronize()
    return {"launches": times, "moves_each": inside}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=50)
    steps = parser.parse_args().steps
    calls = Calls()
    calls.start()  # before the driver is initialised: nothing is missed
    import torch
    torch.cuda.init()
    train(torch, steps)
    infer(torch, steps)
    graph = replay(torch, calls, 100)
    torch.cuda.synchronize()
    calls.stop()
    print(json.dumps({"calls": calls.seen, "captured": calls.captured, "graph": graph}), flush=True)


if __name__ == "__main__":
    main()
