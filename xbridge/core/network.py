"""XBRIDGE_OFFLINE=1 refuses the network: libraries are told, and Python code that tries all the same is stopped.

An audit hook (PEP 578) sees every name lookup and every connection that Python code makes: urllib, httpx, requests,
whatever they are called. What torch.distributed, gloo and NCCL do between the ranks of a job is C++ and is not seen, so
that trainings on many nodes run as ever. Programs that are started (pip, git) are reached by variables alone.
"""

import functools
import ipaddress
import os
import socket
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

from xbridge.core.errors import UserError

_TELL = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PIP_NO_INDEX": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
_LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_CONNECTIONS = ("socket.connect", "socket.sendto", "socket.sendmsg")


def settle_network(environ: MutableMapping[str, str] | None = None) -> None:
    """With XBRIDGE_OFFLINE=1, tell every library that could reach for the network not to, and refuse it henceforth."""
    environ = os.environ if environ is None else environ
    if not is_offline(environ):
        return
    environ.update(_TELL)
    for name in ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy"):  # one on this machine would look harmless
        environ.pop(name, None)
        environ.pop(name.upper(), None)
    if environ is os.environ:
        _watch_sockets()


def is_offline(environ: Mapping[str, str] = os.environ) -> bool:
    """True where the network is refused."""
    return environ.get("XBRIDGE_OFFLINE") == "1"


@functools.cache
def _watch_sockets() -> None:
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise `UserError` for a lookup or a connection that leaves this machine; hooks cannot be taken out again."""
    if event in _LOOKUPS and is_offline():
        host = arguments[0]
    elif event in _CONNECTIONS and is_offline():
        family = arguments[0].family
        if family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(arguments[1], tuple):
            return
        host = arguments[1][0]
    else:
        return
    name = host.decode(errors="replace") if isinstance(host, bytes) else str(host or "")
    if not _is_here(name, lookup=event in _LOOKUPS):
        raise UserError(
            f"XBRIDGE_OFFLINE=1 refuses the network, and something asked for {name}; fetch it where there is a network "
            "(`xbridge bundle` collects what a study needs), or unset XBRIDGE_OFFLINE"
        )


def _is_here(host: str, *, lookup: bool) -> bool:
    """Loopback, this machine's own name, and the host where the ranks of this job meet."""
    if host in {"", "localhost", socket.gethostname(), os.environ.get("MASTER_ADDR", "localhost")}:
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return lookup or address.is_loopback or address.is_unspecified
