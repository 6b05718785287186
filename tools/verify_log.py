#!/usr/bin/env python3
"""A second, independent verifier of an audit log (docs/formats/log.md): tree, checkpoints, keys, seals, lane sequences.

Usage: verify_log.py DIR --key host.pub [--trusted CHECKPOINT]. Exit 0 intact, 1 not, 2 could not check.
It shares no code with bulkhead, reads no journal, and wants the whole log unpacked. Needs python3-cryptography.
"""
import argparse
import base64
import hashlib
import json
import pathlib
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519


class Wrong(Exception):
    pass


def sha(data):
    return hashlib.sha256(data).digest()


def good(key, signature, text):
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, text)
        else:
            key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
        return True
    except InvalidSignature:
        return False


def read_keys(path):
    keys = {}
    for line in path.read_text().splitlines():
        words = line.split()
        if words and words[0] == "log":
            name, ident, text = words[1].split("+", 2)
            raw = base64.b64decode(text)
            make = ed25519.Ed25519PublicKey.from_public_bytes if raw[0] == 1 else serialization.load_der_public_key
            keys[(name, int(ident, 16))] = make(raw[1:])
            origin = name
    return origin, keys


def read_notes(text):
    at = 0
    while True:
        end = text.find(b"\n\n", at)
        if end < 0:
            return
        body, at, lines = text[at:end + 1], end + 2, []
        while text.startswith("\u2014 ".encode(), at):
            stop = text.find(b"\n", at)
            if stop < 0:
                return  # half a note, as after a crash
            name, blob = text[at:stop].decode().split(" ")[1:]
            blob = base64.b64decode(blob)
            lines.append((name, struct.unpack(">I", blob[:4])[0], blob[4:]))
            at = stop + 1
        if at == len(text) and "/epoch/" not in lines[-1][0]:
            return  # likewise: the epoch's line is the last
        origin, size, root = body.decode().split("\n")[:3]
        yield body, origin, int(size), base64.b64decode(root), lines


def read_leaves(directory):
    for path in sorted((directory / "segment").glob("*.data")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = struct.unpack_from(">H", data, at)[0]
            yield data[at + 2:at + 2 + length]
            at += 2 + length


class Tree:
    """The peaks of an RFC 6962 tree, smallest last."""

    def __init__(self):
        self.size, self.peaks = 0, []

    def add(self, leaf):
        node, n = sha(b"\0" + leaf), self.size
        while n & 1:
            node, n = sha(b"\1" + self.peaks.pop() + node), n >> 1
        self.peaks.append(node)
        self.size += 1

    def root(self):
        if not self.peaks:
            return sha(b"")
        node = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            node = sha(b"\1" + peak + node)
        return node


def verify(directory, origin, host, trusted):
    notes, tree, lanes, keys = list(read_notes((directory / "checkpoints").read_bytes())), Tree(), {}, []
    if [n[2] for n in notes] != sorted(n[2] for n in notes):
        raise Wrong("sizes of checkpoints fall")
    at_size, seals = {}, set()
    for note in notes + trusted:
        at_size.setdefault(note[2], []).append(note)

    def checkpoints_here():
        for body, name, size, root, lines in at_size.pop(tree.size, []):
            if name != origin or root != tree.root():
                raise Wrong(f"the checkpoint of size {size} is not of these entries")
            for ident, key in host.items():
                if not any((n, i) == ident and good(key, s, body) for n, i, s in lines):
                    raise Wrong(f"the checkpoint of size {size} lacks a good host signature")
            due = keys[-2] if keys[-1]["by"] == "epoch" and size == keys[-1]["index"] + 1 else keys[-1]
            if not any(n == f"{origin}/epoch/{due['epoch']}" and good(due["key"], s, body) for n, i, s in lines):
                raise Wrong(f"the checkpoint of size {size} lacks the signature of epoch {due['epoch']}")
            seals.add(size)

    for index, leaf in enumerate(read_leaves(directory)):
        tree.add(leaf)
        if leaf[0] == 0x1F:
            record = json.loads(leaf[1:])
            if record["record"] == "key":
                signature = base64.b64decode(record.pop("signature"))
                text = json.dumps(record, separators=(",", ":"), sort_keys=True)
                signer = next(k for k in host.values() if isinstance(k, ed25519.Ed25519PublicKey))
                if record["by"] == "epoch":
                    signer = keys[-1]["key"]
                if not good(signer, signature, f"bulkhead epoch key\n{origin}\n{text}".encode()) or (
                        keys and record["epoch"] != keys[-1]["epoch"] + 1):
                    raise Wrong(f"index {index}: the chain of keys is broken")
                record["key"] = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(record["public"]))
                keys.append({**record, "index": index})
            if record["record"] == "session":
                lanes = {k: v for k, v in lanes.items() if k[0] != record["serial"]}
        else:
            session, sequence_low, sequence_high, lane = struct.unpack_from("<I4xIHH", leaf, 4)
            sequence = sequence_high << 32 | sequence_low
            if lanes.get((session, lane), 0) != sequence:
                raise Wrong(f"index {index}: session {session}, lane {lane}: sequence {sequence} "
                            f"where {lanes.get((session, lane), 0)} is due")
            lanes[session, lane] = sequence + 1
        checkpoints_here()
    if at_size:
        raise Wrong(f"{max(at_size)} entries were signed, {tree.size} are there")
    for before, key in zip(keys, keys[1:]):
        if key["by"] == "epoch" and key["index"] + 1 not in seals and key["index"] + 1 < tree.size:
            raise Wrong(f"epoch {before['epoch']} has no seal")
    return f"{tree.size} entries, {len(notes)} checkpoints, {len(keys)} epochs"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--key", type=pathlib.Path, required=True)
    parser.add_argument("--trusted", type=pathlib.Path)
    args = parser.parse_args()
    try:
        origin, host = read_keys(args.key)
        trusted = list(read_notes(args.trusted.read_bytes())) if args.trusted else []
        print("intact:", verify(args.dir, origin, host, trusted))
        return 0
    except OSError as error:
        print("could not check:", error)
        return 2
    except (Wrong, ValueError, KeyError, IndexError, struct.error) as error:
        print("not intact:", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
