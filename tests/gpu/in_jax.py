"""JAX inside a tenant. Modes: fill (its platform allocator, every array a driver call), default (its own pool, which
preallocates a fraction of what it believes the device has)."""
import sys
import time

from inside import MIB, QUOTA, say, fill


def main():
    import jax
    import jax.numpy as jnp
    device = jax.devices()[0]
    x = jnp.ones((512, 512))
    (x @ x).block_until_ready()
    if sys.argv[1] == "default":
        limit = device.memory_stats()["bytes_limit"]
        y = jax.jit(lambda a: (a @ a).sum())(jnp.ones((2048, 2048)))
        say(0 < limit <= QUOTA and float(y) == 2048.0 ** 3, bytes_limit=limit)
        return
    import ctypes
    cuda = ctypes.CDLL("libcuda.so.1")

    context = ctypes.c_void_p()
    cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
    total = ctypes.c_size_t()

    def free():
        left = ctypes.c_size_t()
        cuda.cuCtxSetCurrent(context)
        cuda.cuMemGetInfo_v2(ctypes.byref(left), ctypes.byref(total))
        return left.value

    def take(n):
        try:
            return jnp.empty(n, dtype=jnp.uint8).block_until_ready()
        except Exception as error:  # XlaRuntimeError: RESOURCE_EXHAUSTED
            if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
                raise
            return None

    figures, good, held = fill(take, free)
    time.sleep(0.1)
    say(good and total.value == QUOTA, total=total.value, **figures)
    del held


if __name__ == "__main__":
    main()
