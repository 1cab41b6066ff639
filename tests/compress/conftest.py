from pathlib import Path

import pytest

from edgedeploy.task import Task, load_task
from tests.support.nets import write_task
from tests.support.trained import trained


@pytest.fixture
def tiny(tmp_path: Path) -> Task:
    return load_task(write_task(tmp_path / "tiny"), None)


@pytest.fixture(scope="session")
def trained_cnn() -> Task:
    return trained("digits-cnn")


@pytest.fixture(scope="session")
def trained_gru() -> Task:
    return trained("digits-gru")


@pytest.fixture(scope="session")
def trained_transformer() -> Task:
    return trained("digits-transformer")
