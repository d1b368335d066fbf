"""XBRIDGE_OFFLINE=1: libraries are told, Python's sockets stop at this machine's edge, ranks still find each other."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from xbridge.core.network import settle_network

ROOT = Path(__file__).parents[2]
OUTSIDE = "192.0.2.1"  # a documentation address (RFC 5737): nobody is there


def python(code, *, offline="1", **environ):
    """Run `code` in a process of its own: a hook that is set stays set."""
    settled = {**os.environ, "PYTHONPATH": str(ROOT), "XBRIDGE_OFFLINE": offline, "OMP_NUM_THREADS": "1", **environ}
    code = "from xbridge.core.network import settle_network; settle_network()\n" + code
    return subprocess.run([sys.executable, "-c", code], env=settled, capture_output=True, text=True, check=False)


def test_every_library_that_could_reach_for_the_network_is_told_and_only_when_asked():
    environ = {"XBRIDGE_OFFLINE": "1", "https_proxy": "http://127.0.0.1:3128", "HTTP_PROXY": "x"}
    settle_network(environ)
    assert {environ.pop(name) for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "PIP_NO_INDEX")} == {"1"}
    assert not {name for name in environ if name.lower().endswith("_proxy")}
    environ = {"XBRIDGE_OFFLINE": "0", "https_proxy": "kept"}
    settle_network(environ)
    assert environ == {"XBRIDGE_OFFLINE": "0", "https_proxy": "kept"}


@pytest.mark.parametrize(
    "code",
    [
        "import urllib.request; urllib.request.urlopen('https://models.invalid/x', timeout=5)",
        "import httpx2 as httpx; httpx.get('https://models.invalid/x')",
        f"import socket; socket.create_connection(({OUTSIDE!r}, 443), timeout=1)",
        f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ({OUTSIDE!r}, 53))",
        "import socket; socket.gethostbyname('models.invalid')",
    ],
)
def test_python_code_that_leaves_this_machine_is_stopped_with_one_line(code):
    outcome = python(code)
    assert outcome.returncode == 1
    last = outcome.stderr.strip().splitlines()[-1]
    assert "XBRIDGE_OFFLINE=1 refuses the network" in last
    assert "models.invalid" in last or OUTSIDE in last


def test_this_machine_itself_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        port = server.getsockname()[1]
        outcome = python(
            "import socket\n"
            f"socket.create_connection(('localhost', {port}), timeout=5).close()\n"
            "socket.getaddrinfo(socket.gethostname(), 1)\n"
            "a, b = socket.socketpair(); a.send(b'x')\n"
        )
    assert outcome.returncode == 0, outcome.stderr


def test_a_gloo_group_forms_on_an_address_that_python_may_not_connect_to():
    """127.0.0.1 stands in for the other node: what counts is that TCPStore and gloo raise no audit event."""
    code = (
        "import sys, torch, torch.distributed as dist\n"
        "sys.addaudithook(lambda event, _: event == 'socket.connect' and sys.exit('python connected'))\n"
        "store = dist.TCPStore('127.0.0.1', 0, 1, True)\n"
        "dist.init_process_group('gloo', store=store, rank=0, world_size=1)\n"
        "dist.all_reduce(torch.ones(2)); dist.destroy_process_group()\n"
    )
    outcome = python(code)
    assert outcome.returncode == 0, outcome.stderr


def test_without_the_variable_nothing_is_refused_by_us():
    outcome = python(f"import socket; socket.create_connection(({OUTSIDE!r}, 443), timeout=0.2)", offline="0")
    assert "XBRIDGE_OFFLINE" not in outcome.stderr
