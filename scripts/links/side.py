"""Side: one end of an emulated link: a network namespace with loopback and one TUN device.

A namespace belongs to a thread here. What the thread starts lives in the namespace, and it is gone with the last
of them: there is nothing to clean up, and nothing of it is seen outside.
"""

import ctypes
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

with suppress(ImportError):  # Windows has none; there why_not() says so
    from fcntl import ioctl

DEVICE = "/dev/net/tun"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFTXQLEN = 0x8916, 0x891C, 0x8943
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_TRANSMIT_QUEUE = 5000  # packets: what is dropped is the emulator's decision
_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_SETTINGS = {"net/ipv4/tcp_no_metrics_save": "1", "net/ipv6/conf/all/disable_ipv6": "1"}

Result = TypeVar("Result")


class NoPacketLink(Exception):
    """This machine, or this user, cannot have one; the text says why and what to do."""


def why_not() -> str | None:
    """Return why there can be no packet link here, or None if there can."""
    if sys.platform != "linux":
        return (
            "an emulated link needs Linux (network namespaces and TUN): elsewhere, `packlight bench` measures "
            "over a relay, and `scripts/link` stands one between two programs"
        )
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} is missing or not ours to open: load the module tun, or run as root"
    with ThreadPoolExecutor(1) as thread:  # the namespace goes with it
        try:
            thread.submit(_unshare).result()
        except PermissionError:
            return "a network namespace needs root: run as root, or under `unshare --user --map-root-user`"
    return None


class Side:
    """One end, at *address*; TCP there uses *congestion* control. *descriptor* is the device's other end."""

    def __init__(self, address: str, congestion: str) -> None:
        self.address = address
        self._thread = ThreadPoolExecutor(1)
        self.descriptor = self.run(_settle, address, congestion)

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call *function* in the namespace."""
        return self._thread.submit(function, *arguments).result()

    def start(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
        """Start a process in the namespace, with *options* as for Popen."""
        return self.run(partial(subprocess.Popen, command, text=True, **options))

    def close(self) -> None:
        """Let go of the namespace."""
        os.close(self.descriptor)
        self._thread.shutdown()


def _settle(address: str, congestion: str) -> int:
    """Give the calling thread a namespace with a device of *address*; return the device's other end."""
    _unshare()
    _set_up(congestion)
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.252")):
            ioctl(control, request, struct.pack("16sH2x4s8x", b"tun0", socket.AF_INET, socket.inet_aton(value)))
        with suppress(PermissionError):  # not for a user namespace, where the default will do
            ioctl(control, _SIOCSIFTXQLEN, struct.pack("16si12x", b"tun0", _TRANSMIT_QUEUE))
        for name in (b"lo", b"tun0"):
            (flags,) = struct.unpack_from("H", ioctl(control, _SIOCGIFFLAGS, struct.pack("16s16x", name)), 16)
            ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", name, flags | _IFF_UP))
    return descriptor


def _unshare() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _set_up(congestion: str) -> None:
    for name, value in _SETTINGS.items():
        with suppress(OSError):  # such as where there is no IPv6
            Path("/proc/sys", name).write_text(value)
    try:
        _CONGESTION.write_text(congestion)
    except OSError as exc:
        allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().strip()
        raise NoPacketLink(
            f"the kernel does not let a namespace use {congestion} (it allows {allowed}); as root: "
            f"sysctl net.ipv4.tcp_allowed_congestion_control='{allowed} {congestion}'"
        ) from exc
