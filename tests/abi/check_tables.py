#!/usr/bin/env python3
"""Holds the tables of entry points against their lists of names and against the rule that nothing passes which can
take device memory or move bytes. `--mutants` breaks copies of the tables, one fault each, and fails if a fault goes unnoticed."""
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tools"))
from def_table import meanings, parse, split_name  # noqa: E402

FAMILIES = set("alloc free query context device launch transfer map share module stream graph resolver".split())
# A word in a name that may mean that device memory is taken. A new CUDA release's name that has one must be hooked, or
# be put into takes_none.txt with its reason.
TAKES = re.compile("Alloc|Create|Import|Load|Instantiate|Retain|OpenMem|Map")
# A word in a name that may mean that bytes move, or that a way opens for them. A new name that has one must be hooked in one
# of MOVING, be put into moves_bytes.txt if it does not sound like it, or into moves_none.txt with its reason.
MOVES = re.compile("Memcpy|Memset|Memcp|Prefetch|Decompress|WriteValue|BatchMemOp|Copy|Transfer|Export|Import|GetMemHandle|OpenMem"
                   "|PeerAccess|SetAccess|HostRegister|AllocHost|HostAlloc|AllocManaged|HandleFor|Shareable|MulticastBind|MapResources"
                   "|MemMap|Checkpoint|Restore|GraphLaunch|GraphInstantiate|GraphExec(Update|(Memcpy|Memset|Child|BatchMem|Node).*Set)")
MOVING = {"transfer", "map", "share", "alloc", "graph"}
# NVML names that sound like telling of memory, processes or utilisation; those that pass all the same, with why, are
# the families of TELLS_PASS.
TELLS = re.compile("MemoryInfo|RunningProcess|Process(es)?Util|Accounting(Pids|Stats)|UtilizationRates")
TELLS_PASS = {"vgpu": "virtual machines", "device_wide": "BAR1 windows belong to no tenant",
              "admin": "clears the list, for root only"}
LISTS = {"cuda": "libcuda-13.0.txt", "nvml": "libnvidia-ml-13.txt"}


def path_of(name):
    return os.path.join(ROOT, "src/abi", name)


def load(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def listed(name):
    """[(base name, why)] of a data file here."""
    rows = [line.split("#")[0].split(None, 1) for line in load(os.path.join(HERE, name)).splitlines()]
    return [(row[0], row[1].strip() if len(row) > 1 else "") for row in rows if row]


def check_names(rows, names):
    seen = set()
    for row in rows:
        if row.name in seen:
            yield f"{row.name}: twice in the table"
        seen.add(row.name)
    for name in names:
        if name not in seen:
            yield f"{name}: exported, not in the table"
    for name in sorted(seen - set(names)):
        yield f"{name}: in the table, not exported"


def check_words(rows, text):
    known = meanings(text)
    for row in rows:
        if not row.word:
            yield f"{row.name}: no {'family' if row.hook else 'reason'}"
        elif row.hook and row.word not in FAMILIES:
            yield f"{row.name}: unknown family {row.word}"
        elif not row.hook and row.word in FAMILIES:
            yield f"{row.name}: the reason {row.word} is the name of a family"
        elif (row.hook, row.word) not in known:
            yield f"{row.name}: nothing says what {row.word} means"


def check_order(rows):
    """Groups hold together; inside one, lines are in order of name."""
    done, last = set(), None
    for row in rows:
        group = (row.hook, row.word)
        if last and group != (last.hook, last.word):
            done.add((last.hook, last.word))
        elif last and row.name < last.name:
            yield f"{row.name}: stands after {last.name}"
        if group in done:
            yield f"{row.name}: apart from the others of its group"
        last = row


def check_nvml(rows):
    for row in rows:
        if not row.hook and TELLS.search(row.name) and row.word not in TELLS_PASS:
            yield f"{row.name}: tells of other tenants and passes as {row.word or 'nothing'}"


def check_versions(rows):
    """All versions and per-thread twins of one driver function are one kind: a caller must not slip between them."""
    kinds = {}
    for row in rows:
        base = split_name(row.name)[0]
        if kinds.setdefault(base, (row.hook, row.word)) != (row.hook, row.word):
            yield f"{row.name}: {row.word}, but another version of {base} is {kinds[base][1]}"


def check_memory(rows, must, none):
    bases = {split_name(row.name)[0] for row in rows}
    for row in rows:
        base = split_name(row.name)[0]
        if row.hook and base in none:
            yield f"{row.name}: hooked, but takes_none.txt has it"
        elif not row.hook and (base in must or (TAKES.search(base) and base not in none)):
            yield f"{row.name}: can take device memory and passes as {row.word or 'nothing'}"
    for base in sorted((must | set(none)) - bases):
        yield f"{base}: in a list here, not in the table"
    for base, why in none.items():
        if not why:
            yield f"{base}: takes_none.txt does not say why"


def check_moves(rows, must, none):
    bases = {split_name(row.name)[0] for row in rows}
    for row in rows:
        base = split_name(row.name)[0]
        moves = base in must or (MOVES.search(base) and base not in none)
        if moves and not (row.hook and row.word in MOVING):
            yield f"{row.name}: can move bytes or open a way for them, and is {'hooked' if row.hook else 'passed'} as {row.word}"
        elif row.word in ("transfer", "map") and base in none:
            yield f"{row.name}: is a {row.word}, but moves_none.txt has it"
    for base in sorted((must | set(none)) - bases):
        yield f"{base}: in a list of moves, not in the table"
    for base, why in none.items():
        if not why:
            yield f"{base}: moves_none.txt does not say why"


def check(table, text, names):
    rows, faults = parse(text)
    faults += check_names(rows, names)
    faults += check_words(rows, text)
    faults += check_order(rows)
    if table == "nvml":
        faults += check_nvml(rows)
    if table == "cuda":
        faults += check_versions(rows)
        faults += check_memory(rows, {base for base, _ in listed("takes_memory.txt")}, dict(listed("takes_none.txt")))
        faults += check_moves(rows, {base for base, _ in listed("moves_bytes.txt")}, dict(listed("moves_none.txt")))
    return faults


# Broken tables. Each mutant: what was broken, how, and a word that the answer must contain.


def once(old, new):
    def change(text, names):
        assert text.count(old) == 1, old
        return text.replace(old, new), names
    return change


def line_of(name):
    table = "nvml.def" if name.startswith("nvml") else "cuda.def"
    return re.search(rf"^BH_\w+\({name},.*\n", load(path_of(table)), re.M)[0]


def mutants():
    def as_pass(name, reason):
        return once(line_of(name), re.sub(r"HOOK\((\w+), (\d+), \w+", rf"PASS(\1, \2, {reason}", line_of(name)))
    yield "an allocation passes", as_pass("cuMemAlloc_v2", "fact"), "cuMemAlloc_v2"
    yield "a 32-bit allocation passes", as_pass("cuMemAlloc", "fact"), "cuMemAlloc:"
    yield "a per-thread twin passes", as_pass("cuMemAllocAsync_ptsz", "access"), "cuMemAllocAsync_ptsz"
    yield "an import passes", as_pass("cuMemImportFromShareableHandle", "access"), "cuMemImportFromShareableHandle"
    yield "a function with a plain name passes", as_pass("cuCtxSetLimit", "config"), "cuCtxSetLimit"
    processes = "nvmlDeviceGetComputeRunningProcesses_v3"
    yield "a process list passes", as_pass(processes, "fact"), processes
    yield "two lines swapped", once(line_of("cuMemAlloc") + line_of("cuMemAllocAsync"),
                                    line_of("cuMemAllocAsync") + line_of("cuMemAlloc")), "cuMemAlloc: stands after"
    yield "no reason", once("cuDeviceGetName, 2000, fact", "cuDeviceGetName, 2000, "), "cuDeviceGetName"
    yield "a reason nobody explains", once("cuDeviceGetName, 2000, fact", "cuDeviceGetName, 2000, because"), "because"
    yield "an unknown family", once("cuInit, 2000, context", "cuInit, 2000, begin"), "cuInit"
    yield "a missing line", once(line_of("cuMemFree_v2"), ""), "cuMemFree_v2"
    yield "a doubled line", once(line_of("cuCtxGetDevice"), line_of("cuCtxGetDevice") * 2), "cuCtxGetDevice"
    yield "a broken line", once("BH_HOOK(cuInit, 2000, context, (unsigned int, Flags))", "BH_HOOK(cuInit 2000)"), "line"
    shiny = "BH_PASS(cuMemAllocShiny, 13010, fact, (std::size_t, bytes))\n"
    yield ("a new release's allocation passes",
           lambda text, names: (text.replace(line_of("cuDeviceGetName"), line_of("cuDeviceGetName") + shiny),
                                names + ["cuMemAllocShiny"]), "cuMemAllocShiny: can take")


    yield "a copy passes", as_pass("cuMemcpyHtoDAsync_v2", "fact"), "cuMemcpyHtoDAsync_v2: can move"
    yield "a set passes", as_pass("cuMemsetD8_v2", "fact"), "cuMemsetD8_v2: can move"
    yield "peer access passes", as_pass("cuCtxEnablePeerAccess", "access"), "cuCtxEnablePeerAccess: can move"
    yield "an export passes", as_pass("cuMemGetHandleForAddressRange", "access"), "cuMemGetHandleForAddressRange: can move"
    yield "an update of a graph's copies passes", as_pass("cuGraphExecMemcpyNodeSetParams", "build"), "NodeSetParams: can move"
    yield ("a copy is hooked for something else",
           once("cuMemcpy_ptds, 7000, transfer", "cuMemcpy_ptds, 7000, stream"), "cuMemcpy_ptds: can move")
    beamed = "BH_PASS(cuMemcpyBeamAsync, 13020, fact, (CUdeviceptr, dst), (size_t, bytes))\n"
    yield ("a new release's copy is unclassified",
           lambda text, names: (text.replace(line_of("cuDeviceGetName"), line_of("cuDeviceGetName") + beamed),
                                names + ["cuMemcpyBeamAsync"]), "cuMemcpyBeamAsync: can move")
    opened = "BH_PASS(cuMemExportToFabric, 13020, fact, (void*, handle))\n"
    yield ("a new release's way for bytes is unclassified",
           lambda text, names: (text.replace(line_of("cuDeviceGetName"), line_of("cuDeviceGetName") + opened),
                                names + ["cuMemExportToFabric"]), "cuMemExportToFabric: can move")


def run_mutants():
    missed = count = 0
    for what, change, word in mutants():
        table = "nvml" if "ComputeRunning" in word else "cuda"
        text, names = load(path_of(table + ".def")), load(path_of(LISTS[table])).split()
        faults = check(table, *change(text, names))
        count += 1
        if not any(word in fault for fault in faults):
            print(f"not noticed: {what}: {faults}")
            missed += 1
    print(f"{count} broken tables, {missed} not noticed")
    return missed


def main():
    if sys.argv[1:] == ["--mutants"]:
        return 1 if run_mutants() else 0
    bad = 0
    for table, names in LISTS.items():
        text = load(path_of(table + ".def"))
        for fault in check(table, text, load(path_of(names)).split()):
            print(f"{table}.def: {fault}")
            bad += 1
        rows = parse(text)[0]
        print(f"{table}.def: {len(rows)} functions, {sum(row.hook for row in rows)} hooked")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
