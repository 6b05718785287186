"""What the programs inside a tenant share: the quota they expect, and a fill that checks every answer.

BH_QUOTA is the quota in bytes, set by run.sh for the checks and not read by anything in the product.
"""
import json
import os

MIB = 1 << 20
QUOTA = int(os.environ.get("BH_QUOTA", 10 << 30))


def say(ok, **figures):
    print(json.dumps({"ok": None if ok is None else bool(ok), **figures}), flush=True)  # None: not run here


def nvml_total():
    """The device's total as NVML tells it inside the tenant."""
    import pynvml
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).total


def fill(take, free, largest=256 * MIB, smallest=2 * MIB, granularity=2 * MIB):
    """Takes ever smaller requests until nothing of `smallest` fits, and compares each answer with what was free before.

    take(n) -> an object, or None for a refusal; free() -> bytes free as told inside. Returns the figures and whether
    every request that fitted was granted and every one that did not was refused.
    """
    held, wrong, refusals, first_refused = [], [], 0, None
    n = largest
    while n >= smallest:
        left = free()
        got = take(n)
        if (got is not None) != (n <= left):
            wrong.append({"asked": n, "free": left, "granted": got is not None})
        if got is not None:
            held.append((n, got))
            continue
        refusals += 1
        if first_refused is None:
            first_refused = {"asked": n, "free": left}
        fits = left // granularity * granularity
        n = min(n // 2, fits) // granularity * granularity if fits >= smallest else 0
    figures = {"taken_bytes": sum(n for n, _ in held), "refusals": refusals, "first_refused": first_refused,
               "wrong_answers": len(wrong), "wrong": wrong[:3], "free_at_end": free()}
    return figures, not wrong and refusals > 0, held
