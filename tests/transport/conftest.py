from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgedeploy.transport import Transport
from edgedeploy.transport.local import LocalTransport
from tests.phones import PHONE_KINDS, transport_to_phone
from tests.servers import SERVER_KINDS, transport_to
from tools.loopback_ssh import LoopbackServer, loopback_ssh


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LoopbackServer]]:
    with ExitStack() as stack:
        yield {
            kind: stack.enter_context(loopback_ssh(tmp_path_factory.mktemp(kind), kind=kind)) for kind in SERVER_KINDS
        }


@pytest.fixture(scope="session")
def server(servers: dict[str, LoopbackServer]) -> LoopbackServer:
    """The server that people have."""
    return servers[SERVER_KINDS[0]]


@pytest.fixture(params=["local", *SERVER_KINDS, *PHONE_KINDS], scope="module")
def board(request: pytest.FixtureRequest) -> Iterator[Transport]:
    """A connected transport of every kind; what one test did to it must not disturb the next one."""
    transport: Transport
    if request.param == "local":
        transport = LocalTransport("board")
    elif request.param in PHONE_KINDS:
        transport = transport_to_phone(request.getfixturevalue("phone"), request.param)
    else:
        transport = transport_to(request.getfixturevalue("servers")[request.param])
    with transport:
        yield transport


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A folder that plays the board's disk."""
    folder = tmp_path / "board's folder"
    folder.mkdir()
    return folder
