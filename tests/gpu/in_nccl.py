"""Ranks of a torch.distributed group over NCCL, one GPU each, unmodified.

    in_nccl.py both STORE       two ranks, children of this process: one tenant over two GPUs
    in_nccl.py 0|1 STORE        one of the two ranks

STORE is a file that does not exist yet. Orders come as lines on standard input, the same to every rank; rank 0 answers, a line each:

    check                   whether the sum of two buffers is right: "sum 1"
    time BYTES COUNT        microseconds of one all-reduce, COUNT in a row and then waited for, the slower rank's
    mixed COUNT             COUNT all-reduces, each behind a matrix product, of 8 B to 1 MiB: "at N" now and then, "took SECONDS"
"""
import os
import subprocess
import sys
import time

WORLD = 2
MOST = 1 << 30
QUIET = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1", "NCCL_SOCKET_IFNAME": "lo"}


def both(store):
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), store], stdin=subprocess.PIPE, text=True) for rank in range(WORLD)]
    for line in sys.stdin:
        for rank in ranks:
            rank.stdin.write(line)
            rank.stdin.flush()
    for rank in ranks:
        rank.stdin.close()
    return max(rank.wait() for rank in ranks)


def one(rank, store):
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import torch
    import torch.distributed as dist

    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=WORLD, device_id=device)
    buffer = torch.zeros(MOST // 4, device=device)  # zeros stay zeros, however often they are added
    a = torch.randn(4096, 4096, device=device, dtype=torch.half)
    out = torch.empty_like(a)

    def say(*words):
        if rank == 0:
            print(*words, flush=True)

    def slowest(seconds):
        value = torch.tensor([seconds], device=device, dtype=torch.float64)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value.item()

    def check():
        part = buffer[:4096]
        part.fill_(rank + 1)
        dist.all_reduce(part)
        right = bool((part == WORLD * (WORLD + 1) / 2).all().item())
        part.zero_()
        torch.cuda.synchronize()
        say("sum", int(slowest(0.0 if right else 1.0) == 0.0))

    def timed(size, count):
        part = buffer[:max(1, size // 4)]
        for _ in range(3):
            dist.all_reduce(part)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(count):
            dist.all_reduce(part)
        torch.cuda.synchronize()
        say(f"{slowest((time.perf_counter() - begin) / count) * 1e6:.3f}")

    def mixed(count):
        sizes = [2, 1024, 16384, 262144]  # floats
        torch.mm(a, a, out=out)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for i in range(count):
            torch.mm(a, a, out=out)
            dist.all_reduce(buffer[:sizes[i % len(sizes)]])
            if (i + 1) % 100 == 0:  # a program reads its loss now and then
                torch.cuda.synchronize()
            if (i + 1) % 500 == 0:
                say("at", i + 1)
        torch.cuda.synchronize()
        say("took", f"{slowest(time.perf_counter() - begin):.6f}")

    orders = {"check": check, "time": timed, "mixed": mixed}
    dist.all_reduce(buffer[:2])
    torch.mm(a, a, out=out)
    torch.cuda.synchronize()
    say("ready", torch.cuda.nccl.version())
    for line in sys.stdin:
        word, *numbers = line.split()
        orders[word](*(int(n) for n in numbers))
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(both(sys.argv[2]) if sys.argv[1] == "both" else one(int(sys.argv[1]), sys.argv[2]))
