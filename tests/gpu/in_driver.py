#!/usr/bin/env python3
"""Single interfaces of the driver API in a tenant: in_driver.py share|external|multicast|green|contexts|managed.

Prints one line of JSON: what each step took by the tenant's own figure, and whether that is what it must be."""
import ctypes
import os
import subprocess
import sys
import time
from ctypes import byref, c_int, c_size_t, c_uint, c_uint64, c_void_p

from cuda_driver import MIB, OUT_OF_MEMORY, POSIX_FD, Driver, Refused, quota
from inside import say

BIG = 1024 * MIB
WATCHDOG_S = 10  # for what the process's own thread or the supervisor does about once a second


def settles(read, want):
    """What `read` says once it is `want`, or what it still says after WATCHDOG_S."""
    end = time.monotonic() + WATCHDOG_S
    while (got := read()) != want and time.monotonic() < end:
        time.sleep(0.05)
    return got


def no_room_beyond(cu):
    """What is left can be had, and one granule more cannot."""
    left = (cu.total() - cu.used()) // (2 * MIB) * (2 * MIB)
    too_much = cu.alloc(left + 2 * MIB)
    all_of_it = cu.alloc(left)
    ok = too_much is None and all_of_it is not None
    for one in (too_much, all_of_it):
        if one is not None:
            cu.free(one)
    return ok


def seen_outside():
    """What NVML shows for this process to one that is in no tenant."""
    plain = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD" and not k.startswith("BULKHEAD_")}
    ask = ("import os, pynvml as n; n.nvmlInit(); print(sum(p.usedGpuMemory or 0 for p in "
           "n.nvmlDeviceGetComputeRunningProcesses(n.nvmlDeviceGetHandleByIndex(0)) if p.pid == os.getppid()))")
    out = subprocess.run([sys.executable, "-c", ask], env=plain, stdout=subprocess.PIPE, text=True).stdout.strip()
    return int(out) if out.isdigit() else None


def share():
    """A shareable allocation of 1 GiB in two processes of a tenant: charged once, and kept while either has it."""
    cu = Driver()
    cu.primary()
    before = cu.used()
    handle = cu.create(BIG, POSIX_FD)
    fd = cu.export(handle)
    owned = cu.used() - before
    other = subprocess.Popen([sys.executable, __file__, "importer", str(fd)], pass_fds=[fd], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    taken = other.stdout.readline().strip()  # what its own import and mapping took
    context = cu.used() - before - BIG       # all that the other process added
    alone = no_room_beyond(cu)
    other.stdin.close()
    other.wait(30)
    no_room_beyond(cu)  # the dead are forgotten before a refusal: here something that did not fit may fit
    alone = no_room_beyond(cu) and alone
    after = cu.used() - before
    cu.release(handle)
    os.close(fd)
    # an open descriptor holds the memory: whether one is left is looked at once a second (docs/formats/sharing.md)
    end = settles(lambda: cu.used() - before, 0)
    say(owned == BIG and taken == "0" and 0 < context < BIG and alone and after == BIG and end == 0,
        owner_bytes=owned, importer_bytes=taken, importers_context_bytes=context, exact_at_the_limit=alone,
        after_importer_bytes=after, at_end_bytes=end)


def importer(fd):
    cu = Driver()
    cu.primary()
    before = cu.used()
    handle = cu.take_fd(fd)
    address = cu.map(handle, BIG)
    print(cu.used() - before, flush=True)
    sys.stdin.read()
    cu.unmap(address, BIG)
    cu.release(handle)


def external():
    """An opaque descriptor of the driver's own allocation as external memory."""
    cu = Driver()
    cu.primary()
    before = cu.used()
    handle = cu.create(BIG, POSIX_FD)
    fd = cu.export(handle)
    desc = ctypes.create_string_buffer(104)
    ctypes.c_int.from_buffer(desc, 0).value = 1  # opaque fd
    ctypes.c_int.from_buffer(desc, 8).value = fd
    ctypes.c_uint64.from_buffer(desc, 24).value = BIG
    memory = c_void_p()
    code = cu.ask("cuImportExternalMemory", byref(memory), desc)
    used = cu.used() - before
    if code == 0:
        cu.call("cuDestroyExternalMemory", memory)
    cu.release(handle)
    exact = no_room_beyond(cu)
    end = cu.used() - before
    say((BIG <= used <= 2 * BIG) and end == 0 and exact, import_code=code, used_bytes=used, at_end_bytes=end,
        exact_at_the_limit=exact, note=None if code == 0 else "this driver takes no descriptor of cuMemCreate there")


def multicast():
    cu = Driver()
    cu.primary()
    if cu.devices() < 2:
        say(None, skipped="one GPU: a multicast object needs two")
        return
    prop = ctypes.create_string_buffer(32)
    ctypes.c_uint.from_buffer(prop, 0).value = 2
    ctypes.c_uint64.from_buffer(prop, 8).value = 512 * MIB
    before = cu.used()
    handle = c_uint64()
    code = cu.ask("cuMulticastCreate", byref(handle), prop)
    used = cu.used() - before
    if code == 0:
        cu.release(handle)
    say(used == 0, create_code=code, used_bytes=used)


def green():
    """Green contexts: what each takes is charged, and the quota stays exact with them."""
    cu = Driver()
    cu.primary()
    before = cu.used()
    device, group, rest = (ctypes.create_string_buffer(256) for _ in range(3))
    count = c_uint(1)
    cu.call("cuDeviceGetDevResource", 0, device, 1)
    cu.call("cuDevSmResourceSplitByCount", group, byref(count), device, rest, c_uint(0), c_uint(16))
    desc, made, context = c_void_p(), c_void_p(), c_void_p()
    cu.call("cuDevResourceGenerateDesc", byref(desc), group, c_uint(1))
    cu.call("cuGreenCtxCreate", byref(made), desc, 0, c_uint(1))
    cu.call("cuCtxFromGreenCtx", byref(context), made)
    took = cu.used() - before
    cu.call("cuCtxSetCurrent", context)
    total = cu.total()
    held = cu.alloc(BIG)
    with_memory = cu.used() - before - took
    at_once = no_room_beyond(cu)
    exact = no_room_beyond(cu)  # the context's own part may be seen only after a first look
    cu.free(held)
    cu.call("cuGreenCtxDestroy", made)
    cu.primary()
    say(total == quota() and with_memory == BIG and exact, total_bytes=total, context_bytes=took, allocation_bytes=with_memory,
        exact_at_once=at_once, exact_at_the_limit=exact, after_destroy_bytes=cu.used() - before)


def contexts():
    """cuCtxCreate_v4: each context is charged, and destroying it gives the charge back.

    NVML's figure falls in steps while a context is destroyed, and the supervisor books what it shows above the books, so
    a step may be right only at its next look."""
    cu = Driver()
    cu.primary()
    before = cu.used()
    each, steps, made = 0, [], []
    for n in (1, 2, 3):
        context = c_void_p()
        cu.call("cuCtxCreate_v4", byref(context), None, c_uint(0), c_int(0))
        made.append(context)
        each = each or cu.used() - before
        steps.append(settles(lambda: cu.used() - before, n * each))
    exact = no_room_beyond(cu)
    seen = [seen_outside()]
    for n in (2, 1, 0):
        cu.call("cuCtxDestroy_v2", made[n])
        steps.append(settles(lambda: cu.used() - before, n * each))
        seen.append(seen_outside())
    cu.primary()
    end = settles(lambda: cu.used() - before, 0)
    say(each > 0 and steps == [n * each for n in (1, 2, 3, 2, 1, 0)] and end == 0 and exact,
        charged_bytes=steps, nvml_bytes=seen, exact_at_the_limit=exact, at_end_bytes=end)


def keep():
    """A context that lives until stdin ends: it keeps the driver's own first part out of others' figures."""
    Driver().primary()
    say(True)
    sys.stdin.read()


def managed():
    """Managed memory until it is refused; every page written on the device."""
    cu = Driver()
    cu.primary()
    for stage in ("context", "first"):
        if stage == "first":
            cu.free(cu.managed(2 * MIB))  # the first brings the driver's own part with it
        print(stage, flush=True)
        sys.stdin.readline()
    held, size = [], 256 * MIB
    first, wrong = None, 0
    while size >= 2 * MIB:
        got = cu.managed(size)
        if isinstance(got, int):
            wrong += got != OUT_OF_MEMORY
            first = first or {"asked": size, "free": cu.total() - cu.used()}
            size //= 2
            continue
        cu.call("cuMemsetD8_v2", got, ctypes.c_ubyte(1), c_size_t(size))
        held.append((size, got))
    cu.call("cuCtxSynchronize")
    taken, full = sum(n for n, _ in held), cu.used()
    print("full", flush=True)
    sys.stdin.readline()
    for _, address in held:
        cu.free(address)
    say(wrong == 0 and full <= quota() and first is not None, taken_bytes=taken, used_when_full_bytes=full, other_codes=wrong,
        first_refused=first, kept_bytes=cu.used())


if __name__ == "__main__":
    try:
        if sys.argv[1] == "importer":
            importer(int(sys.argv[2]))
        else:
            {"share": share, "external": external, "multicast": multicast, "green": green, "contexts": contexts,
             "managed": managed, "keep": keep}[sys.argv[1]]()
    except Refused as refused:
        say(False, error=str(refused))
        sys.exit(1)
