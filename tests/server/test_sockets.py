"""What the server asks of the sockets and the memory below it."""

import socket
import subprocess
import sys

from upkeep.server.main import open_socket


def test_answers_on_kept_connections_do_not_wait_for_an_acknowledgement() -> None:
    with open_socket("127.0.0.1:0") as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


# glibc counts the blocks that have pages of their own in `hblks`, the fourth field of mallinfo2.
_LARGE_BLOCK_AFTER_A_LARGER_ONE = """
import ctypes
from upkeep.api.serve_http import keep_large_blocks_apart

assert keep_large_blocks_apart()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

class Info(ctypes.Structure):
    _fields_ = [(f"field{n}", ctypes.c_size_t) for n in range(10)]

libc.mallinfo2.restype = Info
libc.free(libc.malloc(1_048_576))
before = libc.mallinfo2().field3
for _ in range(64):
    libc.malloc(262_144)
# A few fit into what is free on the heap.
print(libc.mallinfo2().field3 - before >= 32)
"""


def test_large_blocks_have_pages_of_their_own_whatever_was_freed_before() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LARGE_BLOCK_AFTER_A_LARGER_ONE],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"
