"""Two processes that share memory by IPC and write a pattern into it: in_residual_ipc.py GIB. The maker is killed first, then the other one
ends; says `opened and written` when both are gone."""
import ctypes
import os
import signal
import subprocess
import sys
from ctypes import byref, c_size_t, c_uint, c_uint64

from in_residual import WORD, Looker


class Handle(ctypes.Structure):
    _fields_ = [("text", ctypes.c_char * 64)]


def fill(looker, at, size):
    looker.driver.call("cuMemsetD32_v2", at, c_uint(WORD), c_size_t(size // 4))
    looker.driver.call("cuCtxSynchronize")


def maker(size):
    looker, handle = Looker(), Handle()
    at = looker.driver.alloc(size)
    fill(looker, at, size)
    looker.driver.call("cuIpcGetMemHandle", byref(handle), at)
    print(bytes(handle).hex(), flush=True)
    sys.stdin.readline()  # until it is killed


def main():
    size = int(float(sys.argv[1]) * (1 << 30))
    if sys.argv[2:] == ["maker"]:
        return maker(size)
    looker = Looker()
    a = subprocess.Popen([sys.executable, __file__, sys.argv[1], "maker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    handle, at = Handle.from_buffer_copy(bytes.fromhex(a.stdout.readline())), c_uint64()
    looker.driver.call("cuIpcOpenMemHandle_v2", byref(at), handle, c_uint(1))
    a.send_signal(signal.SIGKILL)
    a.wait()
    fill(looker, at, size)
    print("opened and written", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
