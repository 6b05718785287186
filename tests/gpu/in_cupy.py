"""CuPy inside a tenant: its raw allocator filled until it refuses, then its pool."""
import time

import cupy

from inside import QUOTA, say, fill


def main():
    cupy.cuda.set_allocator(None)
    a = cupy.ones((512, 512), dtype=cupy.float32)
    float((a * 2).sum())  # first kernel
    device = cupy.cuda.Device(0)

    def take(n):
        try:
            return cupy.cuda.alloc(n)
        except (cupy.cuda.memory.OutOfMemoryError, cupy.cuda.runtime.CUDARuntimeError) as error:
            assert "emory" in str(error), error
            return None

    figures, good, held = fill(take, lambda: device.mem_info[0])
    total = device.mem_info[1]
    time.sleep(0.1)
    del held
    cupy.cuda.set_allocator(cupy.cuda.MemoryPool().malloc)
    right = float(cupy.arange(1 << 20, dtype=cupy.float64).sum()) == (1 << 20) * ((1 << 20) - 1) / 2
    say(good and right and total == QUOTA, total=total, pool_right=right, **figures)


if __name__ == "__main__":
    main()
