"""Loads for check_compute.py, unmodified PyTorch, one process that does what it is told: `in_compute.py KIND[,KIND...]`

    gemm      half-precision products of 4096: the device is at its power's limit and lowers its clock
    gemm32    single-precision products of 2048: the clock stays
    decode    steps of a small model from a CUDA graph

It says `ready`, the multiprocessors it was told of and its pid; then `closed KIND SECONDS`, two steps ahead of the GPU, is answered with a line of
JSON: operations each second, and how long one takes between two events of the program's own (the median of one in 16, us)."""
import json
import os
import sys
import time

import torch


def product(width, dtype):
    a = torch.randn(width, width, device="cuda", dtype=dtype)
    out = torch.empty_like(a)
    return (lambda: torch.mm(a, a, out=out)), 4


def decode():
    layers = torch.nn.Sequential(*(layer for _ in range(16) for layer in (torch.nn.Linear(2048, 2048), torch.nn.GELU()))).cuda().half()
    x = torch.randn(8, 2048, device="cuda", dtype=torch.half)
    with torch.no_grad():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            layers(x)
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            layers(x)

    def step():
        graph.replay()
    step.alive = layers, x  # the graph has their addresses alone
    return step, 8


KINDS = {"gemm": lambda: product(4096, torch.half), "gemm32": lambda: product(2048, torch.float), "decode": decode}


def closed(step, units, seconds):
    done, pairs, begin = 0, [], time.monotonic()
    end, events = begin + seconds, [torch.cuda.Event() for _ in range(2)]
    while time.monotonic() < end:
        event = events[done // units % 2]
        event.synchronize()  # two steps ahead of the GPU, never more
        for i in range(units):
            if (done + i) % 16 != 3:
                step()
                continue
            pairs.append(tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)))
            pairs[-1][0].record()
            step()
            pairs[-1][1].record()
        event.record()
        done += units
    torch.cuda.synchronize()
    seconds = time.monotonic() - begin
    took = sorted(1e3 * a.elapsed_time(b) for a, b in pairs)
    return {"per_s": done / seconds, "own_us": took[len(took) // 2] if took else 0}


def main():
    loads = {kind: KINDS[kind]() for kind in sys.argv[1].split(",")}
    for step, _ in loads.values():
        for _ in range(80):
            step()
    torch.cuda.synchronize()
    print("ready", torch.cuda.get_device_properties(0).multi_processor_count, os.getpid(), flush=True)
    for line in sys.stdin:
        _, kind, seconds = line.split()
        print(json.dumps(closed(*loads[kind], float(seconds))), flush=True)


main()
