"""PyTorch inside a tenant, unmodified. Modes: fill, expandable, async, graph, train, fork, spawn, visible, hold."""
import os
import sys
import time

import torch

from inside import MIB, QUOTA, nvml_total, say, fill


def totals():
    """Every place where PyTorch or NVML tells the size of the device."""
    return {"mem_get_info": torch.cuda.mem_get_info()[1],
            "properties": torch.cuda.get_device_properties(0).total_memory,
            "nvml": nvml_total()}


def agree(seen):
    return all(value == QUOTA for value in seen.values())


def take(n):
    try:
        return torch.empty(n, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        return None


def filling(smallest=20 * MIB):
    """The caching allocator takes 20 MiB segments for what is below 10 MiB: below that it does not ask for what it is asked."""
    a = torch.randn(512, 512, device="cuda")
    (a @ a).sum().item()  # first kernels, library handles: the context's own memory is there
    figures, good, held = fill(take, lambda: torch.cuda.mem_get_info()[0], smallest=smallest)
    good = good and (a @ a).isfinite().all().item()  # still working when full
    time.sleep(0.1)  # ten samples from outside of the full tenant
    del held
    torch.cuda.empty_cache()
    again = take(1024 * MIB)  # what was freed is there again
    return figures, good and again is not None


def mode_fill():
    seen = totals()
    figures, good = filling()
    say(good and agree(seen), totals=seen, **figures)


def mode_async():
    # The pool grows by 32 MiB, so what fits is judged by the allocator alone; the sampler judges the sum.
    seen = totals()
    held = []
    n = 256 * MIB
    refusals = 0
    while n >= 2 * MIB:
        got = take(n)
        if got is None:
            refusals += 1
            n //= 2
        else:
            held.append(got)
    time.sleep(0.1)
    say(agree(seen) and refusals > 0, totals=seen, taken_bytes=sum(t.numel() for t in held), refusals=refusals)


def mode_graph():
    seen = totals()
    a = torch.randn(2048, 2048, device="cuda")
    (a @ a).sum().item()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        b = (a @ a).relu()
    graph.replay()
    torch.cuda.synchronize()
    right = torch.allclose(b, (a @ a).relu(), rtol=1e-3, atol=1e-2)
    say(agree(seen) and right, totals=seen, replay_right=right)


def mode_train():
    """A few steps of a small transformer, the kind of program the product is for."""
    seen = totals()
    torch.manual_seed(0)
    model = torch.nn.TransformerEncoderLayer(512, 8, batch_first=True).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, y = torch.randn(16, 64, 512, device="cuda"), torch.randn(16, 64, 512, device="cuda")
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    say(agree(seen) and losses[-1] < losses[0], totals=seen, first_loss=losses[0], last_loss=losses[-1])


def child(index, queue):
    t = torch.empty(256 * MIB, dtype=torch.uint8, device="cuda")
    queue.put((index, torch.cuda.mem_get_info()[1], t.numel()))


def processes(method):
    import torch.multiprocessing as multiprocessing
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=child, args=(i, queue)) for i in range(3)]
    for one in children:
        one.start()
    answers = [queue.get(timeout=60) for _ in children]
    for one in children:
        one.join(30)
    right = all(total == QUOTA for _, total, _ in answers) and all(one.exitcode == 0 for one in children)
    seen = totals()  # the parent starts CUDA only now: with `fork` the children came before
    say(right and agree(seen), totals=seen, children=len(answers))


def mode_fork():
    processes("fork")


def mode_spawn():
    processes("spawn")


def mode_visible():
    count = torch.cuda.device_count()
    want = int(os.environ.get("BH_WANT_DEVICES", "1"))
    seen = totals() if count else {}
    if count:
        torch.ones(1, device="cuda").item()
    say(count == want and agree(seen), devices=count, totals=seen, visible=os.environ.get("CUDA_VISIBLE_DEVICES"))


def mode_hold():
    """Takes argv[2] bytes, says so, holds until standard input ends."""
    n = int(sys.argv[2])
    held = [take(min(1024 * MIB, n - at)) for at in range(0, n, 1024 * MIB)]
    torch.cuda.synchronize()
    say(all(t is not None for t in held), free=torch.cuda.mem_get_info()[0])
    sys.stdin.read()


if __name__ == "__main__":
    modes = {"expandable": mode_fill}
    mode = sys.argv[1]
    (modes.get(mode) or globals()["mode_" + mode])()
