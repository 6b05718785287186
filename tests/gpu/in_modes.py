"""Loads for check_modes.py, unmodified PyTorch, one process that does what it is told: `in_modes.py mlp|gemm|parts`, then lines on stdin:

    closed SECONDS          requests one after the other
    parts SECONDS           requests on a stream of a high priority beside a hog on another of this process (parts)
    paced SECONDS EVERY_MS  one request each EVERY_MS, latency from when it was due (mlp)

Each is answered with one line of JSON: work done each second, p50, p99 in ms. It says `ready`, the
multiprocessors it was told of and its pid first; the end of its input ends it."""
import json
import os
import sys
import time

import torch


def mlp():
    """A small model's request: in, four layers, out. About 0.1 ms alone."""
    layers = torch.nn.Sequential(*(x for _ in range(4) for x in (torch.nn.Linear(1024, 1024), torch.nn.ReLU()))).cuda().half()
    given = torch.randn(8, 1024, device="cuda", dtype=torch.half)

    def request():
        layers(given)
        torch.cuda.synchronize()
    return request


def gemm():
    """One matrix product of 8192, about 1.7 ms; two are queued."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.half)
    out = torch.empty_like(a)
    events, turn = [torch.cuda.Event() for _ in range(2)], [0]

    def request():
        event = events[turn[0] % 2]
        event.synchronize()
        torch.mm(a, a, out=out)
        event.record()
        turn[0] += 1
    return request


def told(took, seconds):
    took.sort()
    n = len(took)
    at = lambda share: round(took[min(n - 1, int(share * n))] * 1e3, 4)
    print(json.dumps({"per_s": round(n / seconds, 1), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0), "n": n}), flush=True)


def closed(request, seconds):
    took, begin = [], time.perf_counter()
    last = begin
    while last - begin < seconds:
        request()
        now = time.perf_counter()
        took.append(now - last)
        last = now
    torch.cuda.synchronize()
    told(took, time.perf_counter() - begin)


def paced(request, seconds, every_s):
    took, begin = [], time.perf_counter()
    due = begin
    while due - begin < seconds:
        time.sleep(max(0.0, due - time.perf_counter()))
        request()
        took.append(time.perf_counter() - due)
        due += every_s
    told(took, time.perf_counter() - begin)


def parts():
    """Small products on a stream of a high priority, large ones on an ordinary one; both waited for by their streams alone."""
    small, large = (torch.randn(n, n, device="cuda", dtype=torch.half) for n in (512, 8192))
    high, low = torch.cuda.Stream(priority=-1), torch.cuda.Stream()

    def hog():
        with torch.cuda.stream(low):
            torch.mm(large, large)

    def request():
        with torch.cuda.stream(high):
            for _ in range(4):
                torch.mm(small, small)
        high.synchronize()

    def beside(seconds):
        took, queued, begin = [], [], time.perf_counter()
        while time.perf_counter() - begin < seconds:
            while len(queued) < 3:
                hog()
                queued.append(low.record_event())
            if queued[0].query():
                queued.pop(0)
            now = time.perf_counter()
            request()
            took.append(time.perf_counter() - now)
        torch.cuda.synchronize()
        told(took, time.perf_counter() - begin)
    request.beside, request.hog = beside, hog
    return request


def main():
    with torch.no_grad():
        request = {"mlp": mlp, "gemm": gemm, "parts": parts}[sys.argv[1]]()
        for _ in range(30):
            request()
        torch.cuda.synchronize()
        print("ready", torch.cuda.get_device_properties(0).multi_processor_count, os.getpid(), flush=True)
        for line in sys.stdin:
            word, *numbers = line.split()
            if word == "parts":
                request.beside(float(numbers[0]))
            elif word == "closed":
                closed(request, float(numbers[0]))
            else:
                paced(request, float(numbers[0]), float(numbers[1]) / 1e3)


main()
