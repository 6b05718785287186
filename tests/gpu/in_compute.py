"""Loads inside a tenant, unmodified PyTorch: `gemm SECONDS` or `decode SECONDS` (a small model's steps from a CUDA graph). Waits for a
line, runs, prints the units of work done each second."""
import sys
import time

import torch


def gemm():
    a = torch.randn(4096, 4096, device="cuda", dtype=torch.half)
    out = torch.empty_like(a)

    def step():
        for _ in range(4):
            torch.mm(a, a, out=out)
    return step, 4


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
        for _ in range(8):
            graph.replay()
    step.alive = layers, x  # the graph has their addresses alone
    return step, 8


def main():
    step, units = {"gemm": gemm, "decode": decode}[sys.argv[1]]()
    for _ in range(20):
        step()
    torch.cuda.synchronize()
    print("ready", flush=True)
    sys.stdin.readline()
    done, begin = 0, time.monotonic()
    end = begin + float(sys.argv[2])
    events = [torch.cuda.Event() for _ in range(2)]
    while time.monotonic() < end:
        event = events[done // units % 2]
        event.synchronize()  # two steps ahead of the GPU, never more
        step()
        event.record()
        done += units
    torch.cuda.synchronize()
    print(done / (time.monotonic() - begin), flush=True)


main()
