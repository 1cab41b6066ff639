"""Nets are trained and exported once for all tests here: a conversion takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from edgedeploy import export
from edgedeploy.export import Exported, FloatFile
from edgedeploy.records import Format, Target
from edgedeploy.task import Task
from tests.export import nets

FAMILIES: dict[str, type[nn.Module]] = {"cnn": nets.Cnn, "gru": nets.Gru, "transformer": nets.Transformer}


@dataclass(frozen=True)
class Case:
    """A trained net, and one file of it."""

    task: Task
    model: nn.Module
    target: Target
    exported: Exported


Trained = Callable[[str], tuple[Task, nn.Module]]
Convert = Callable[[str, Format], FloatFile]
Make = Callable[[str, Target], Case]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order: the nets come out the same on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained() -> Trained:
    @cache
    def train(family: str) -> tuple[Task, nn.Module]:
        task = nets.digits_task(FAMILIES[family])
        return task, nets.train(task)

    return train


@pytest.fixture(scope="session")
def converted(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Convert:
    @cache
    def convert(family: str, file_format: Format) -> FloatFile:
        task, model = trained(family)
        return export.convert(model, file_format, task, tmp_path_factory.mktemp(f"{family}-{file_format}"))

    return convert


@pytest.fixture(scope="session")
def make(trained: Trained, converted: Convert, tmp_path_factory: pytest.TempPathFactory) -> Make:
    @cache
    def build(family: str, target: Target) -> Case:
        task, model = trained(family)
        folder: Path = tmp_path_factory.mktemp(f"{family}-{target}")
        return Case(task, model, target, export.quantise(converted(family, target.format), target, task, folder))

    return build
