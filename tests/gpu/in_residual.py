"""One process of check_residual.py: fills GPU memory with a pattern, or looks for it in memory that nobody has written.

    in_residual.py fill KIND GIB      prints `held`; a line of input ends it: `free` (gives back, stays until the next line), `exit` (ends
                                      without giving back), else it waits to be killed
    in_residual.py look KIND GIB      prints `there` when its context is made; at a line of input it allocates (GIB 0: all there is), looks, and
                                      says what it found
    in_residual.py reuse KIND GIB     fills, gives back, allocates again in the same process, and looks

KIND: plain, pool, vmm, managed, host, small, shared. Prints {"bytes", "left" (bytes of the pattern), "not_zero"}."""
import ctypes
import json
import struct
import sys
from ctypes import byref, c_int, c_size_t, c_uint, c_uint64, c_void_p

from cuda_driver import MIB, Driver, Refused

WORD = 0xB51DE5A1
PTX = """.version 7.0
.target sm_70
.address_size 64
.visible .entry look(.param .u64 base, .param .u64 words, .param .u64 pattern, .param .u64 out)
{ .reg .pred %p<4>; .reg .b32 %r<6>; .reg .b64 %d<16>;
  ld.param.u64 %d1, [base]; ld.param.u64 %d2, [words]; ld.param.u64 %d3, [pattern]; ld.param.u64 %d4, [out];
  mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mov.u32 %r4, %nctaid.x;
  cvt.u64.u32 %d6, %r3; mad.wide.u32 %d5, %r1, %r2, %d6; mul.wide.u32 %d7, %r4, %r2; mov.u64 %d8, 0; mov.u64 %d9, 0;
NEXT: setp.ge.u64 %p1, %d5, %d2; @%p1 bra DONE;
  shl.b64 %d10, %d5, 3; add.u64 %d10, %d10, %d1; ld.global.u64 %d11, [%d10];
  setp.eq.u64 %p2, %d11, %d3; selp.u64 %d12, 1, 0, %p2; add.u64 %d8, %d8, %d12;
  setp.ne.u64 %p3, %d11, 0; selp.u64 %d13, 1, 0, %p3; add.u64 %d9, %d9, %d13;
  add.u64 %d5, %d5, %d7; bra NEXT;
DONE: atom.global.add.u64 %d14, [%d4], %d8; add.u64 %d4, %d4, 8; atom.global.add.u64 %d15, [%d4], %d9; ret; }
.visible .entry shared(.param .u64 write, .param .u64 pattern, .param .u64 out)
{ .reg .pred %p<6>; .reg .b32 %r<8>; .reg .b64 %d<12>; .shared .align 8 .b8 place[49152];
  ld.param.u64 %d1, [write]; ld.param.u64 %d3, [pattern]; ld.param.u64 %d4, [out];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, place; mov.u64 %d8, 0; mov.u64 %d9, 0;
NEXT: setp.ge.u32 %p1, %r1, 6144; @%p1 bra DONE;
  shl.b32 %r4, %r1, 3; add.u32 %r4, %r4, %r3;
  setp.eq.u64 %p2, %d1, 0; @%p2 bra READ;
  st.volatile.shared.u64 [%r4], %d3; bra STEP;
READ: ld.volatile.shared.u64 %d5, [%r4];
  setp.eq.u64 %p3, %d5, %d3; selp.u64 %d6, 1, 0, %p3; add.u64 %d8, %d8, %d6;
  setp.ne.u64 %p4, %d5, 0; selp.u64 %d7, 1, 0, %p4; add.u64 %d9, %d9, %d7;
STEP: add.u32 %r1, %r1, %r2; bra NEXT;
DONE: atom.global.add.u64 %d10, [%d4], %d8; add.u64 %d4, %d4, 8; atom.global.add.u64 %d11, [%d4], %d9; ret; }
"""


class Looker:
    def __init__(self):
        self.driver = Driver()
        self.driver.primary()
        self.functions = {}
        module = c_void_p()
        if self.driver.ask("cuModuleLoadData", byref(module), PTX.encode()) == 0:
            for name in ("look", "shared"):
                self.functions[name] = c_void_p()
                if self.driver.ask("cuModuleGetFunction", byref(self.functions[name]), module, name.encode()) != 0:
                    self.functions = {}
                    break
        self.sums = self.driver.alloc(16)
        self.probe()

    def probe(self):
        """That the look sees what is there: kernels are believed only then. What it is shown stays taken."""
        at = self.driver.alloc(MIB)
        self.fill("plain", [(at.value, MIB // 2)])
        self.driver.call("cuMemsetD8_v2", c_uint64(at.value + MIB // 2), ctypes.c_ubyte(0), c_size_t(MIB // 2))
        want = (MIB // 2, MIB // 2)
        if self.functions and self.look([(at.value, MIB)]) != want:
            self.functions = {}
        if not self.functions and self.look([(at.value, MIB)]) != want:
            raise RuntimeError("the look does not see what is there")

    def launch(self, name, blocks, *values):
        kept = [c_uint64(v) for v in values]
        params = (c_void_p * len(kept))(*[ctypes.cast(byref(v), c_void_p) for v in kept])
        self.driver.call("cuLaunchKernel", self.functions[name], blocks, 1, 1, 256, 1, 1, 0, None, params, None)

    def counted(self, launches):
        self.driver.call("cuMemsetD8_v2", self.sums, ctypes.c_ubyte(0), c_size_t(16))
        for one in launches:
            self.launch(*one)
        out = (c_uint64 * 2)()
        self.driver.call("cuMemcpyDtoH_v2", out, self.sums, c_size_t(16))
        return out[0] * 8, out[1] * 8

    def look(self, pieces):
        """(bytes of the pattern, bytes that are not zero) of device memory."""
        pattern = WORD << 32 | WORD
        if self.functions:
            return self.counted([("look", 2112, at, size // 8, pattern, self.sums.value) for at, size in pieces])
        left = other = 0  # a driver without the kernel: by copies
        for at, size in pieces:
            text = ctypes.create_string_buffer(size)
            self.driver.call("cuMemcpyDtoH_v2", text, c_uint64(at), c_size_t(size))
            left += text.raw.count(struct.pack("<II", WORD, WORD)) * 8
            other += size - text.raw.count(b"\0")
        return left, other

    def take(self, kind, size):
        """Pieces (address, bytes) of `size` bytes, or of all there is, nothing of which was written."""
        piece, pieces, taken = {"small": 64 << 10, "host": 64 * MIB}.get(kind, 1024 * MIB), [], 0
        while not size or taken < size:
            piece = min(piece, size - taken) if size else piece
            at = self.one(kind, piece)
            if at is None:  # the rest comes in smaller ones
                if piece <= 2 * MIB:
                    break
                piece //= 2
                continue
            pieces.append((at, piece))
            taken += piece
        return pieces

    def one(self, kind, size):
        d, at = self.driver, c_uint64()
        if kind in ("plain", "small"):
            at = d.alloc(size)
        elif kind == "pool":
            code = d.ask("cuMemAllocAsync", byref(at), c_size_t(size), None)
            d.call("cuStreamSynchronize", None)
            at = at if code == 0 else None
        elif kind == "vmm":
            try:
                handle = d.create(size)
            except Refused:
                return None
            d.call("cuMemAddressReserve", byref(at), c_size_t(size), c_size_t(0), c_uint64(0), c_uint64(0))
            d.call("cuMemMap", at, c_size_t(size), c_size_t(0), handle, c_uint64(0))
            access = ctypes.create_string_buffer(struct.pack("iii", 1, 0, 3), 12)
            d.call("cuMemSetAccess", at, c_size_t(size), access, c_size_t(1))
            d.release(handle)
        elif kind == "managed":
            at = d.managed(size)
            at = None if isinstance(at, int) else at
        elif kind == "host":
            pointer = c_void_p()
            code = d.ask("cuMemHostAlloc", byref(pointer), c_size_t(size), c_uint(2))
            at = c_uint64(pointer.value or 0) if code == 0 else None
        return None if at is None else at.value

    def fill(self, kind, pieces):
        for at, size in pieces:
            if kind == "host":
                ctypes.memmove(at, struct.pack("<I", WORD) * (size // 4), size)
            else:
                self.driver.call("cuMemsetD32_v2", c_uint64(at), c_uint(WORD), c_size_t(size // 4))
        self.driver.call("cuCtxSynchronize")

    def give_back(self, kind, pieces):
        for at, size in pieces:
            if kind == "vmm":
                self.driver.unmap(c_uint64(at), size)
            elif kind == "host":
                self.driver.call("cuMemFreeHost", c_void_p(at))
            elif kind == "pool":
                self.driver.call("cuMemFreeAsync", c_uint64(at), None)
            else:
                self.driver.free(c_uint64(at))
        self.driver.call("cuCtxSynchronize")

    def found(self, kind, pieces):
        if kind == "host":
            texts = [ctypes.string_at(at, size) for at, size in pieces]
            left = sum(t.count(struct.pack("<II", WORD, WORD)) for t in texts) * 8
            other = sum(len(t) - t.count(b"\0") for t in texts)
        else:
            left, other = self.look(pieces)
        return {"bytes": sum(n for _, n in pieces), "left": left, "not_zero": other}


def shared(looker, act):
    """What a kernel left in the shared memory of the processors."""
    pattern = WORD << 32 | WORD
    if not looker.functions:
        print("held" if act == "fill" else json.dumps({"skipped": "a driver without the kernel"}), flush=True)
        return sys.stdin.readline()
    if act == "fill":
        print("held", flush=True)
        looker.driver.call("cuMemsetD8_v2", looker.sums, ctypes.c_ubyte(0), c_size_t(16))
        import select
        while not select.select([sys.stdin], [], [], 0)[0]:  # beside the one that looks
            for _ in range(20):
                looker.launch("shared", 528, 1, pattern, looker.sums.value)
            looker.driver.call("cuCtxSynchronize")
        return sys.stdin.readline()
    if act == "look":
        print("there", flush=True)
        sys.stdin.readline()
    else:
        looker.counted([("shared", 528, 1, pattern, looker.sums.value)])
    left, other = looker.counted([("shared", 528, 0, pattern, looker.sums.value)] * 50)
    return print(json.dumps({"bytes": 50 * 528 * 49152, "left": left, "not_zero": other}), flush=True)


def main():
    act, kind, size = sys.argv[1], sys.argv[2], int(float(sys.argv[3]) * (1 << 30))
    looker = Looker()
    if kind == "shared":
        return shared(looker, act)
    if act == "look":
        print("there", flush=True)
        sys.stdin.readline()
        print(json.dumps(looker.found(kind, looker.take(kind, size))), flush=True)
        return None
    pieces = looker.take(kind, size)
    looker.fill(kind, pieces)
    if act == "reuse":
        looker.give_back(kind, pieces)
        print(json.dumps(looker.found(kind, looker.take(kind, size))), flush=True)
        return None
    print("held", sum(n for _, n in pieces), flush=True)
    while word := sys.stdin.readline().strip():
        if word == "free":
            looker.give_back(kind, pieces)
            print("freed", flush=True)
        elif word == "reset":
            looker.driver.call("cuDevicePrimaryCtxReset_v2", c_int(0))
            print("reset", flush=True)
        else:
            import os
            os._exit(0)  # nothing is given back


if __name__ == "__main__":
    main()
