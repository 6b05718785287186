"""Work for check_density.py and check_end_to_end.py, unmodified PyTorch, one process that does what it is told:

    in_work.py KIND[,KIND...] [--small]

    mlp       a small model's request: input copied in, four layers, output copied out
    gemm      half-precision products of 4096, two in flight
    prefill   a prompt of 512 tokens through a model of Llama's shape
    decode    one token for each of 4 sequences from a CUDA graph, keys and values of 512 tokens; the tokens are copied out
    train     a step of a transformer encoder with AdamW; the loss is read

It says `ready`, the multiprocessors it was told of and its pid; then `closed KIND SECONDS` is answered with a line of JSON: requests each second, p50,
p99 and the longest in ms, their number. The model has 16 layers of 2048, with --small 8 of 1024. The end of its input ends it."""
import json
import os
import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention, silu

SMALL = "--small" in sys.argv
WIDTH, LAYERS, HEADS, VOCAB = (1024, 8, 8, 32000) if SMALL else (2048, 16, 16, 32000)
HALF = {"device": "cuda", "dtype": torch.half}


class Block(torch.nn.Module):
    """One layer of Llama's shape: attention over kept keys and values, a gated MLP, root-mean-square norms."""

    def __init__(self):
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.RMSNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = torch.nn.Linear(WIDTH, 3 * WIDTH, bias=False), torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = torch.nn.Linear(WIDTH, 2 * WIDTH * 11 // 4, bias=False), torch.nn.Linear(WIDTH * 11 // 4, WIDTH, bias=False)

    def forward(self, x, kept=None):
        batch, length, _ = x.shape
        q, k, v = (part.view(batch, length, HEADS, -1).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, -1))
        if kept is not None:
            kept[0][:, :, -length:].copy_(k)
            kept[1][:, :, -length:].copy_(v)
            k, v = kept
        seen = scaled_dot_product_attention(q, k, v, is_causal=kept is None)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, WIDTH))
        gate, up = self.up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(silu(gate) * up)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = torch.nn.Embedding(VOCAB, WIDTH), torch.nn.Linear(WIDTH, VOCAB, bias=False)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, tokens, kept=None):
        x = self.words(tokens)
        for i, block in enumerate(self.blocks):
            x = block(x, kept and kept[i])
        return self.head(x[:, -1]).argmax(-1)


MODEL = []


def model():
    if not MODEL:
        torch.manual_seed(1)
        torch.set_default_dtype(torch.half)
        with torch.device("cuda"):
            MODEL.append(Model().eval())
        torch.set_default_dtype(torch.float)
    return MODEL[0]


def mlp():
    layers = torch.nn.Sequential(*(x for _ in range(4) for x in (torch.nn.Linear(1024, 1024), torch.nn.ReLU()))).cuda().half()
    given, taken = (torch.zeros(8, 1024, dtype=torch.half, pin_memory=True) for _ in range(2))
    inside = torch.zeros(8, 1024, **HALF)

    def request():
        inside.copy_(given, non_blocking=True)
        taken.copy_(layers(inside), non_blocking=True)
        torch.cuda.synchronize()
    return torch.no_grad()(request)


def gemm():
    a = torch.randn(4096, 4096, **HALF)
    out = torch.empty_like(a)
    events, turn = [torch.cuda.Event() for _ in range(2)], [0]

    def request():
        event = events[turn[0] % 2]
        event.synchronize()
        for _ in range(4):
            torch.mm(a, a, out=out)
        event.record()
        turn[0] += 1
    return request


def prefill():
    whole, prompt = model(), torch.randint(0, VOCAB, (1, 512), device="cuda")

    def request():
        whole(prompt).item()
    return torch.no_grad()(request)


@torch.no_grad()
def decode():
    whole, tokens = model(), torch.zeros(4, 1, device="cuda", dtype=torch.long)
    kept = [[torch.randn(4, HEADS, 512, WIDTH // HEADS, **HALF) for _ in range(2)] for _ in range(LAYERS)]
    taken = torch.zeros(4, dtype=torch.long, pin_memory=True)
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()  # the side stream waits for nobody, and the model is made on another
    with torch.cuda.stream(side):
        for _ in range(3):
            whole(tokens, kept)
    side.synchronize()
    with torch.cuda.graph(graph):
        said = whole(tokens, kept)
        tokens.copy_(said.view(4, 1))

    def request():
        graph.replay()
        taken.copy_(said, non_blocking=True)
        torch.cuda.synchronize()
    request.alive = tokens, kept  # the graph has their addresses alone: freed, they would be given to others
    return request


def train():
    layer = torch.nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    whole = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).cuda()
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-5)
    batch = torch.randn(16, 128, 512, device="cuda")

    def request():
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = whole(batch).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()
    return request


KINDS = {"mlp": mlp, "gemm": gemm, "prefill": prefill, "decode": decode, "train": train}


def closed(request, seconds):
    took, begin = [], time.perf_counter()
    last = begin
    while last - begin < seconds:
        request()
        now = time.perf_counter()
        took.append(now - last)
        last = now
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    took.sort()

    def at(share):
        return round(took[min(len(took) - 1, int(share * len(took)))] * 1e3, 4)
    return {"per_s": round(len(took) / seconds, 2), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0), "n": len(took)}


def main():
    requests = {kind: KINDS[kind]() for kind in sys.argv[1].split(",")}
    for request in requests.values():
        for _ in range(20):
            request()
    torch.cuda.synchronize()
    print("ready", torch.cuda.get_device_properties(0).multi_processor_count, os.getpid(), flush=True)
    for line in sys.stdin:
        _, kind, seconds = line.split()
        print(json.dumps(closed(requests[kind], float(seconds))), flush=True)


main()
