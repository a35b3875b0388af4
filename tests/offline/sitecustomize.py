"""Refuse every connection that leaves this machine, also in the kernels that tests start (found
through PYTHONPATH).
"""

import socket
import sys

# a second for two grammars in each process that reads notebooks
sys.modules["rfc3987_syntax"] = sys.modules["isoduration"] = None  # type: ignore[assignment]

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex


def allowed(family: int, address: object) -> bool:
    """Only loopback and Unix sockets."""
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    host = str(address[0]) if isinstance(address, tuple) else ""
    return host in ("localhost", "::1") or host.startswith("127.")


def connect(self, address):
    if not allowed(self.family, address):
        raise ConnectionRefusedError(f"the tests run offline; {address} was refused")
    return _connect(self, address)


def connect_ex(self, address):
    if not allowed(self.family, address):
        raise ConnectionRefusedError(f"the tests run offline; {address} was refused")
    return _connect_ex(self, address)


socket.socket.connect, socket.socket.connect_ex = connect, connect_ex  # type: ignore[method-assign]
