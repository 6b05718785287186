"""Reads the tables of entry points, src/abi/*.def; docs/formats/tables.md has the format."""
import collections
import re

Row = collections.namedtuple("Row", "name hook since word params line")  # word: family if hook, else reason

LINE = re.compile(r"BH_(HOOK|PASS|PASS_TEXT)\((\w+), (\d+), (\w*)((?:, \([^()]+, \w+\))*)\)")


def split_name(name):
    """cuMemcpyAsync_v2_ptsz -> (cuMemcpyAsync, 2, _ptsz): base name, version, per-thread suffix."""
    twin = ""
    for suffix in ("_ptsz", "_ptds"):
        if name.endswith(suffix):
            name, twin = name[: -len(suffix)], suffix
    versioned = re.fullmatch(r"(\w+?)_v(\d+)", name)
    return (versioned[1], int(versioned[2]), twin) if versioned else (name, 1, twin)


def parse(text):
    """(rows, faults) of a table's text: rows in its order, faults as printable lines."""
    rows, faults = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("BH_"):
            continue
        match = LINE.fullmatch(line)
        if not match:
            faults.append(f"line {number}: not BH_HOOK/BH_PASS(name, since, word, (type, arg)...): {line[:60]}")
            continue
        params = re.findall(r"\(([^()]+), (\w+)\)", match[5])
        rows.append(Row(match[2], match[1] == "HOOK", int(match[3]), match[4], params, number))
    return rows, faults


def read(path):
    with open(path, encoding="utf-8") as file:
        return parse(file.read())


def meanings(text):
    """{(hook, word): meaning} from the comment that heads each section of a table: `// word: meaning.`"""
    found = {}
    for word, meaning, kind in re.findall(r"^// (\w+): (.+)\nBH_(HOOK|PASS)", text, re.M):
        found[(kind == "HOOK", word)] = meaning
    return found
