"""The driver API from Python without a package: what the checks of single interfaces need of libcuda."""
import ctypes
import os
import struct
from ctypes import byref, c_int, c_size_t, c_uint, c_uint64, c_void_p

MIB = 1 << 20
OUT_OF_MEMORY, INVALID_VALUE, NOT_PERMITTED, NOT_SUPPORTED = 2, 1, 800, 801
POSIX_FD = 1


class Refused(Exception):
    """An answer other than success."""

    def __init__(self, name, code):
        super().__init__(f"{name}: {code}")
        self.code = code


class Driver:
    """libcuda.so.1 as a program of this process meets it. call(...) raises Refused, ask(...) gives the code."""

    def __init__(self, device=0):
        self.lib = ctypes.CDLL("libcuda.so.1")
        self.device = device
        self.call("cuInit", 0)

    def ask(self, name, *args):
        return getattr(self.lib, name)(*args)

    def call(self, name, *args):
        code = self.ask(name, *args)
        if code != 0:
            raise Refused(name, code)

    def primary(self):
        context = c_void_p()
        self.call("cuDevicePrimaryCtxRetain", byref(context), self.device)
        self.call("cuCtxSetCurrent", context)
        return context

    def used(self):
        """Bytes in use as the tenant is told."""
        free, total = c_size_t(), c_size_t()
        self.call("cuMemGetInfo_v2", byref(free), byref(total))
        return total.value - free.value

    def total(self):
        free, total = c_size_t(), c_size_t()
        self.call("cuMemGetInfo_v2", byref(free), byref(total))
        return total.value

    def alloc(self, size):
        """An address, or None where there is no room."""
        address = c_uint64()
        code = self.ask("cuMemAlloc_v2", byref(address), c_size_t(size))
        if code == OUT_OF_MEMORY:
            return None
        if code != 0:
            raise Refused("cuMemAlloc_v2", code)
        return address

    def free(self, address):
        self.call("cuMemFree_v2", address)

    def managed(self, size):
        address = c_uint64()
        code = self.ask("cuMemAllocManaged", byref(address), c_size_t(size), c_uint(1))
        return address if code == 0 else code

    def create(self, size, handle_types=0):
        """A physical allocation on the device."""
        handle = c_uint64()
        prop = ctypes.create_string_buffer(struct.pack("iiiiQ8x", 1, handle_types, 1, self.device, 0), 32)
        self.call("cuMemCreate", byref(handle), c_size_t(size), prop, c_uint64(0))
        return handle

    def release(self, handle):
        self.call("cuMemRelease", handle)

    def export(self, handle):
        fd = c_int(-1)
        self.call("cuMemExportToShareableHandle", byref(fd), handle, POSIX_FD, c_uint64(0))
        return fd.value

    def take_fd(self, fd):
        handle = c_uint64()
        self.call("cuMemImportFromShareableHandle", byref(handle), c_void_p(fd), POSIX_FD)
        return handle

    def map(self, handle, size):
        """Maps an allocation, writes all of it, and gives the address."""
        address = c_uint64()
        self.call("cuMemAddressReserve", byref(address), c_size_t(size), c_size_t(0), c_uint64(0), c_uint64(0))
        self.call("cuMemMap", address, c_size_t(size), c_size_t(0), handle, c_uint64(0))
        access = ctypes.create_string_buffer(struct.pack("iii", 1, self.device, 3), 12)
        self.call("cuMemSetAccess", address, c_size_t(size), access, c_size_t(1))
        self.call("cuMemsetD8_v2", address, ctypes.c_ubyte(1), c_size_t(size))
        self.call("cuCtxSynchronize")
        return address

    def unmap(self, address, size):
        self.call("cuMemUnmap", address, c_size_t(size))
        self.call("cuMemAddressFree", address, c_size_t(size))

    def attribute(self, which):
        value = c_int()
        self.call("cuDeviceGetAttribute", byref(value), which, self.device)
        return value.value

    def devices(self):
        count = c_int()
        self.call("cuDeviceGetCount", byref(count))
        return count.value


def quota():
    return int(os.environ.get("BH_QUOTA", 10 << 30))
