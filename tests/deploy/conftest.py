from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedeploy.deploy import SigningKey, new_key
from tests.deploy.releasing import Built, Kitchen, build


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("releases")


@pytest.fixture(scope="session")
def keys(folder: Path) -> Iterator[dict[str, SigningKey]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        yield {name: new_key(name) for name in ("ours", "theirs")}


@pytest.fixture
def key(keys: dict[str, SigningKey]) -> SigningKey:
    return keys["ours"]


@pytest.fixture(scope="session")
def first(folder: Path) -> Built:
    return build("first", folder)


@pytest.fixture(scope="session")
def second(folder: Path) -> Built:
    return build("second", folder)


@pytest.fixture(scope="session")
def third(folder: Path) -> Built:
    return build("third", folder)


@pytest.fixture
def empty(tmp_path: Path, key: SigningKey) -> Kitchen:
    """A board that trusts nobody yet and has nothing."""
    return Kitchen(tmp_path / "the root", key)


@pytest.fixture(scope="session")
def deployed(folder: Path, keys: dict[str, SigningKey], first: Built, second: Built) -> Path:
    """The root of a board with release 2 active and 1 before it."""
    kitchen = Kitchen(folder / "board", keys["ours"])
    kitchen.enrol()
    for number, built in ((1, first), (2, second)):
        assert kitchen.do(kitchen.operation(number, built))["outcome"] == "active"
    assert kitchen.active() == (2, 1)
    return kitchen.root


@pytest.fixture
def kitchen(deployed: Path, tmp_path: Path, key: SigningKey) -> Kitchen:
    """A board of which release 2 is active, and which tells its application, that heard of nothing so far."""
    return Kitchen.copy(deployed, tmp_path / "the root", key)
