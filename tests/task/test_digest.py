import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedeploy.compress.training import save_weights
from edgedeploy.errors import PlanError
from edgedeploy.task import load_task, task_digest
from tests.support.nets import write_task

pytestmark = pytest.mark.builds


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A task with a local import, a package, a file of its own, a file outside, a listed folder, and weights."""
    extra = """
from pathlib import Path
import local_part
from local_package.inner import DEPTH

local_part.NOTHING
HERE = Path(__file__).parent
SETTINGS = (HERE / "settings.json").read_text()
OUTSIDE = (HERE.parent / "outside.txt").read_text()
PICTURES = sorted(path.name for path in (HERE / "pictures").iterdir())
(HERE / "log.txt").write_text("written, not read")
"""
    folder = tmp_path / "project"
    file = write_task(folder, extra=extra)
    (folder / "local_part.py").write_text("NOTHING = 0\n")
    (folder / "local_package").mkdir()
    (folder / "local_package" / "__init__.py").write_text("")
    (folder / "local_package" / "inner.py").write_text("DEPTH = 1\n")
    (folder / "settings.json").write_text("{}")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_text("a")
    (tmp_path / "outside.txt").write_text("outside")
    (folder / "unused.txt").write_text("nobody reads this")
    save_weights(load_task(file, None).model().state_dict(), folder / "weights.safetensors")
    return folder


def digest_of(folder: Path, cache: dict[str, str]) -> str:
    return task_digest(folder / "task.py", folder / "weights.safetensors", cache)


def test_the_digest_is_the_tasks_own_and_the_cache_answers_without_torch(project: Path) -> None:
    cache: dict[str, str] = {}
    digest = digest_of(project, cache)
    assert digest == digest_of(project, {}) == load_task(project / "task.py", project / "weights.safetensors").digest
    assert len(cache) == 1
    program = f"""
import sys
from pathlib import Path
from edgedeploy.task import task_digest
folder = Path({str(project)!r})
print(task_digest(folder / "task.py", folder / "weights.safetensors", {cache!r}))
assert not {{"torch", "safetensors", "local_part"}} & set(sys.modules), "the cache was not enough"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest


def test_another_process_finds_the_same_digest_in_another_place(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "elsewhere" / "renamed")
    shutil.copy(tmp_path / "outside.txt", tmp_path / "elsewhere" / "outside.txt")
    program = """
import sys
from pathlib import Path
from edgedeploy.task import task_digest
folder = Path(sys.argv[1])
print(task_digest(folder / "task.py", folder / "weights.safetensors", {}))
"""
    argv = [sys.executable, "-c", program, str(tmp_path / "elsewhere" / "renamed")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest_of(project, {})


def rewrite(path: Path, old: str, new: str) -> None:
    """Change a file's text and leave its size as it is."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


CHANGES: dict[str, Callable[[Path], object]] = {
    "task file": lambda p: rewrite(p / "task.py", "nn.ReLU()", "nn.SiLU()"),
    "data": lambda p: rewrite(p / "task.py", "default_rng(0)", "default_rng(1)"),
    "local import": lambda p: rewrite(p / "local_part.py", "0", "7"),
    "module of a local package": lambda p: rewrite(p / "local_package" / "inner.py", "1", "2"),
    "file that it reads": lambda p: rewrite(p / "settings.json", "{}", "[]"),
    "file elsewhere that it reads": lambda p: rewrite(p.parent / "outside.txt", "side", "SIDE"),
    "weights": lambda p: save_weights(
        {k: v + 1 for k, v in load_task(p / "task.py", None).model().state_dict().items()}, p / "weights.safetensors"
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_any_change_gives_another_digest(project: Path, what: str) -> None:
    cache: dict[str, str] = {}
    before = digest_of(project, cache)
    CHANGES[what](project)
    after = digest_of(project, cache)
    assert after != before
    assert after == digest_of(project, cache) == digest_of(project, {})


def test_what_is_not_read_does_not_matter(project: Path) -> None:
    cache: dict[str, str] = {}
    before = digest_of(project, cache)
    remembered = dict(cache)
    rewrite(project / "unused.txt", "nobody", "NOBODY")
    (project / "build").mkdir()
    rewrite(project / "log.txt", "written", "WRITTEN")
    assert digest_of(project, cache) == before
    assert cache == remembered


def test_the_source_of_whoever_calls_is_no_input(tmp_path: Path) -> None:
    """Libraries look at the stack, and the source of its frames is then read: here, this very file."""
    plain = write_task(tmp_path / "plain")
    looks = write_task(
        tmp_path / "looks", extra="import linecache, traceback\nlinecache.clearcache()\ntraceback.format_stack()\n"
    )
    cache: dict[str, str] = {}
    task_digest(plain, None, cache)
    task_digest(looks, None, cache)
    assert Path(__file__).name not in "".join(cache.values())


def test_what_is_installed_is_no_input(tmp_path: Path) -> None:
    """A library looks for its plugins the first time that it is used in a process, so that others would see less."""
    plugins = "import importlib.metadata\nimportlib.metadata.entry_points()\n"
    plugins += f"open({str(tmp_path / 'own.txt')!r}).close()\n"
    (tmp_path / "own.txt").write_text("read")
    cache: dict[str, str] = {}
    task_digest(write_task(tmp_path / "looks", extra=plugins), None, cache)
    assert "own.txt" in "".join(cache.values())
    assert "entry_points" not in "".join(cache.values())


def test_a_touched_file_is_read_again_and_found_the_same(project: Path) -> None:
    cache: dict[str, str] = {}
    before = digest_of(project, cache)
    remembered = dict(cache)
    os.utime(project / "settings.json", ns=(1, 1))
    assert digest_of(project, cache) == before
    assert cache != remembered


def test_a_new_file_in_a_listed_folder_is_noticed(project: Path) -> None:
    cache: dict[str, str] = {}
    digest_of(project, cache)
    remembered = dict(cache)
    (project / "pictures" / "b.png").write_text("b")
    digest_of(project, cache)
    assert cache != remembered


def test_a_task_that_became_broken_or_vanished_is_not_answered_from_the_cache(project: Path) -> None:
    cache: dict[str, str] = {}
    digest_of(project, cache)
    (project / "weights.safetensors").rename(project / "away")
    with pytest.raises(PlanError, match="no such weights file"):
        digest_of(project, cache)
    (project / "away").rename(project / "weights.safetensors")
    (project / "local_part.py").unlink()
    with pytest.raises(PlanError, match="No module named 'local_part'"):
        digest_of(project, cache)


def test_without_weights_it_is_another_question(project: Path) -> None:
    cache: dict[str, str] = {}
    assert task_digest(project / "task.py", None, cache) != digest_of(project, cache)
    assert len(cache) == 2
