"""A Triton kernel inside a tenant: compiled, loaded by Triton's own launcher, and right."""
import torch
import triton
import triton.language as tl

from inside import QUOTA, say


@triton.jit
def add(x, y, out, n, block: tl.constexpr):
    at = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + at, tl.load(x + at, mask=at < n) + tl.load(y + at, mask=at < n), mask=at < n)


def main():
    n = 1 << 24
    x, y = torch.randn(n, device="cuda"), torch.randn(n, device="cuda")
    out = torch.empty_like(x)
    add[(triton.cdiv(n, 1024),)](x, y, out, n, block=1024)
    right = torch.equal(out, x + y)
    total = torch.cuda.mem_get_info()[1]
    try:
        torch.empty(QUOTA, dtype=torch.uint8, device="cuda")
        refused = False
    except torch.OutOfMemoryError:
        refused = True
    say(right and refused and total == QUOTA, right=right, refused=refused, total=total)


if __name__ == "__main__":
    main()
