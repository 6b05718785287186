#!/usr/bin/env python3
"""Checks the notes on atomic operations (CONTRIBUTING.md says what they are for).

In src/base, src/shm and src/hook every operation on an atomic names its memory order, and a comment:
- acquire, release, acq_rel: `pairs with X`, or `as above`, or one that speaks of the order by its name;
- seq_cst: the same, or any reason;
- relaxed: any reason why nothing is ordered, or one `relaxed: why` earlier in the function for all.
The comment lies on the operation's statement, in the three lines of text above it (a run of statements
may share one) or, if it says `pairs with`, in the two below; or it is an `// orders:` comment that
opens the function or stands above it and speaks for all of it.

Elsewhere in src/ and kernels/ atomics are only loaded. A file that must break this says so near its
top with `// atomics: why`; it is then held to the rules above. Tests are not looked at.

Usage: check_orders.py [ROOT] | --self-test. Exit 0 clean, 1 with one line a violation.
"""
import pathlib
import re
import sys
import tempfile

OWNERS = ("src/base", "src/shm", "src/hook")
WRITES = ("store|exchange|fetch_add|fetch_sub|fetch_and|fetch_or|fetch_xor|compare_exchange_weak|"
          "compare_exchange_strong|test_and_set")
MEMBER = re.compile(rf"(?:\.|->)\s*(load|{WRITES})\s*\(")
FREE = re.compile(r"\b(atomic_thread_fence|atomic_signal_fence|__atomic_[a-z_]+|__sync_[a-z_]+|"
                  rf"atomic_(?:load|{WRITES})(?:_explicit)?)\s*\(")
# An operand of the atomic operators, which are all seq_cst without saying so.
DECLARED = re.compile(r"\b(?:std::atomic(?:_ref|_flag)?\b\s*(?:<[^;{}()]*?>)?|Atomic\w*)\s+(\w+)\s*[;{=(,\[]")
PLAIN = re.compile(r"\b(?:u?int\d*(?:_t)?|size_t|unsigned|long|char|bool|auto)\s+(\w+)\s*[;{=(,)\[:]")
ORDER = re.compile(r"memory_order(?:_|::)(relaxed|acquire|release|acq_rel|seq_cst|consume)|"
                   r"__ATOMIC_(RELAXED|ACQUIRE|RELEASE|ACQ_REL|SEQ_CST|CONSUME)|"
                   r"\bk(Relaxed|Acquire|Release|AcqRel|SeqCst)\b")
PASSED_ON = re.compile(r"\border\b|\border_\w+|\w+_order\b")  # a wrapper's own parameter
REACH, REACH_BELOW = 3, 2
PAIRS = re.compile(r"\bpairs? with\b|\bas (?:above|below|in)\b|"
                   r"\b(?:acquire|release|acq_rel|seq_cst|total order)\b", re.I)


def split_comments(text):
    """Two lists of lines: code with comments and literals blanked, and the comments alone."""
    code, notes, i, state = [], [], 0, "code"
    while i < len(text):
        two, one = text[i:i + 2], text[i]
        width = 1
        if one == "\n":
            state = "code" if state == "line" else state
            code.append(one), notes.append(one)
        elif state == "code":
            if two in ("//", "/*"):
                state, width = ("line" if two == "//" else "block"), 2
                code.append("  "), notes.append("  ")
            elif one == '"' or (one == "'" and not (i and text[i - 1].isalnum())):
                end = i + 1
                while end < len(text) and text[end] not in (one, "\n"):
                    end += 2 if text[end] == "\\" else 1
                width = min(end + 1, len(text)) - i
                blank = re.sub(r"[^\n]", " ", text[i:i + width])
                code.append(blank), notes.append(blank)
            else:
                code.append(one), notes.append(" ")
        elif state == "block" and two == "*/":
            state, width = "code", 2
            code.append("  "), notes.append("  ")
        else:
            code.append(" "), notes.append(one)
        i += width
    return "".join(code).split("\n"), "".join(notes).split("\n")


def call_end(flat, at):
    """Index just past the parenthesis that closes the one at `at`."""
    depth = 0
    for i in range(at, len(flat)):
        depth += {"(": 1, ")": -1}.get(flat[i], 0)
        if depth == 0:
            return i + 1
    return len(flat)


def indent(line):
    return len(line) - len(line.lstrip())


def covered_by_note(code, notes):
    """Lines spoken for by an `// orders:` comment: to the end of the function it opens or precedes."""
    lines = set()
    for at, note in enumerate(notes):
        if not re.match(r"\s*orders:", note):
            continue
        before = next((line for line in reversed(code[:at]) if line.strip()), "")
        # 'namespace x {' above does not make the note a function's first line.
        inside = before.rstrip().endswith("{") and indent(before) < indent(notes[at]) - 3
        depth = len(re.match(r"\s*", notes[at]).group()) - 3  # column of the `//`
        for line in range(at, len(code)):
            lines.add(line)
            text = code[line].rstrip()
            closes = text.endswith(("}", "};", "});"))
            if closes and (indent(text) < depth if inside else indent(text) <= depth):
                break
    return lines


class File:
    def __init__(self, relative, text):
        self.relative = relative
        self.code, self.notes = split_comments(text)
        self.flat = "\n".join(self.code)
        self.covered = covered_by_note(self.code, self.notes)
        self.excused = any(re.match(r"\s*atomics:\s*\S", n) for n in self.notes[:30])
        self.owner = str(relative).startswith(OWNERS) or self.excused

    def line_of(self, index):
        return self.flat.count("\n", 0, index)

    def note_for(self, first, last):
        """The comments that may speak for an operation on lines first..last."""
        start = first
        while start > 0 and self.code[start - 1].strip() and \
                not re.search(r"[;{}:]\s*$", self.code[start - 1]):
            start -= 1  # up to where the statement begins
        end = last
        while end + 1 < len(self.code) and not re.search(r"[;{}]\s*$", self.code[end]) and \
                self.code[end].strip():
            end += 1
        near = self.notes[start:end + 1]
        # A comment block counts as one: from any of the three lines above, take the whole block.
        line, steps = start - 1, 0
        while line >= 0 and (steps < REACH or (not self.code[line].strip() and self.notes[line].strip())):
            if not self.code[line].strip() and not self.notes[line].strip():
                break
            near.insert(0, self.notes[line])
            steps += 1
            line -= 1
        near += [n for n in self.notes[end + 1:end + 1 + REACH_BELOW] if re.search(r"pairs? with", n)]
        return re.sub(r"\s+", " ", " ".join(near)).strip()

    def says_relaxed(self, first):
        """Whether a comment above, in the same function, speaks of `relaxed`."""
        for line in range(first, -1, -1):
            if re.match(r"\}", self.code[line]):
                return False
            if re.search(r"\brelaxed\b", self.notes[line]):
                return True
        return False

    def operations(self):
        for pattern in (MEMBER, FREE):
            for match in pattern.finditer(self.flat):
                end = call_end(self.flat, match.end() - 1)
                yield match.group(1), self.flat[match.end():end - 1], \
                    self.line_of(match.start()), self.line_of(end - 1)


def check_operation(file, name, arguments, first, last):
    orders = [next(g for g in m.groups() if g).lower().replace("_", "") for m in ORDER.finditer(arguments)]
    if not orders:
        if PASSED_ON.search(arguments):
            return None
        if name.startswith("__sync_"):
            return f"{name} cannot name an order"
        if name == "load" and arguments.strip():
            return None  # takes something else than an order: not an atomic
        return f"{name} names no memory order"
    if first in file.covered:
        return None
    note = file.note_for(first, last)
    strong = {order for order in orders if order != "relaxed"}
    if not strong:
        return None if note or file.says_relaxed(first) else f"relaxed {name} does not say why nothing is ordered"
    if PAIRS.search(note) or (strong == {"seqcst"} and note):
        return None
    return f"{'/'.join(sorted(strong))} {name} says neither what it pairs with nor why"


def check_owner(file, atomics):
    for name, arguments, first, last in file.operations():
        problem = check_operation(file, name, arguments, first, last)
        if problem:
            yield first, problem
    for name in atomics:
        pattern = rf"(?:\.|->){name}\s*(\+\+|--|[-+&|^]=)|(\+\+|--)\s*[\w.>-]*(?:\.|->){name}\b"
        for match in re.finditer(pattern, file.flat):
            yield file.line_of(match.start()), f"operator on atomic '{name}' names no memory order"
    for match in re.finditer(r"\bvolatile\b", file.flat):
        line = file.line_of(match.start())
        if not re.search(r"\basm\b|__asm", file.code[line]):
            yield line, "volatile orders nothing: use an atomic"


def check_other(file):
    for match in re.finditer(r"(?<!const )\bstd::atomic(?:_ref|_flag)?\b|\batomic_thread_fence\b|"
                             r"\b__(?:atomic|sync)_\w+", file.flat):
        yield file.line_of(match.start()), f"{match.group()} outside {', '.join(OWNERS)}"
    for name, arguments, first, _ in file.operations():
        if name != "load" and ORDER.search(arguments):
            yield first, f"atomic {name} outside {', '.join(OWNERS)}: only loads"


def check(root):
    files = []
    for path in sorted([*(root / "src").rglob("*"), *(root / "kernels").rglob("*")]):
        if path.suffix not in (".h", ".cc") or re.search(r"_(test|fuzz|bench)\.|^test_", path.name):
            continue
        files.append(File(path.relative_to(root), path.read_text(errors="replace")))
    # A name that something plain bears too tells nothing: this looks at text, not at types.
    atomics = {name for file in files for name in DECLARED.findall(file.flat)}
    atomics -= {name for file in files for name in PLAIN.findall(file.flat)}
    for file in files:
        problems = check_owner(file, atomics) if file.owner else check_other(file)
        for line, problem in sorted(set(problems)):
            yield f"{file.relative}:{line + 1}: {problem}"


def self_test():
    samples = pathlib.Path(__file__).parent / "check_orders_samples.txt"
    expected, found = set(), set()
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        for part in samples.read_text().split("=== ")[1:]:
            path, text = part.split("\n", 1)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            # `BAD` marks a line that must be found; it is no part of the sample.
            expected |= {f"{path}:{n}" for n, line in enumerate(text.split("\n"), 1) if line.endswith("@BAD")}
            (root / path).write_text(text.replace("@BAD", ""))
        found = {line.split(": ")[0] for line in check(root)}
    if found != expected:
        print(f"self-test: missed {sorted(expected - found)}, invented {sorted(found - expected)}")
        return 1
    return 0


def main(arguments):
    if arguments[:1] == ["--self-test"]:
        return self_test()
    root = pathlib.Path(arguments[0] if arguments else pathlib.Path(__file__).parent.parent).resolve()
    problems = list(check(root))
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
