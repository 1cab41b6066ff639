"""Imports go downward only, so that every floor can be read, tested and replaced without those above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "edgedeploy"

# From the top down. A room is a module or a package directly under edgedeploy/.
FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(floor.split())
    for floor in (
        "edgedeploy __main__",  # the package's own face: nothing below may look at it
        "cli",
        "pipeline ci search report doctor",
        "lab",
        "build profiling deploy project",
        "compress export evaluate packing board selection",
        "store transport meters statistics task tracing exported_file examples",
        "plan records errors progress quiet apart metrics onnx_session",
    )
)
ISLAND = "on_device"

# Rooms on one floor do not know each other, but for these.
NEIGHBOURS = {
    ("__main__", "edgedeploy"),
    ("pipeline", "report"),  # the story has the page as its last station
    ("exported_file", "task"),  # for its arrays
    ("plan", "records"),
    ("plan", "errors"),
}

# Upward, for annotations only: a Pass is described among the records, and works on a Task.
ANNOTATIONS_UPWARD = {("records", "task")}


@dataclass(frozen=True)
class Import:
    """One import statement: the module it is in, the module it names, and whether only type checkers see it."""

    module: str
    line: int
    imported: str
    annotation: bool


def room(module: str) -> str:
    """`edgedeploy.board.push` is in the room `board`; the package itself is its own."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def floor(name: str) -> int | None:
    """Counted from the top; None for a room that has no floor."""
    return next((level for level, rooms in enumerate(FLOORS) if name in rooms), None)


def imports(module: str, source: str, *, package: bool, modules: frozenset[str]) -> Iterator[Import]:
    """Every import of ours in the source, wherever it stands; `modules` tells a submodule from an attribute."""
    base = module.split(".") if package else module.split(".")[:-1]

    def walk(node: ast.AST, *, annotation: bool) -> Iterator[Import]:
        for name in named(node):
            if name.split(".")[0] == "edgedeploy":
                yield Import(module, getattr(node, "lineno", 0), name, annotation)
        if isinstance(node, ast.If) and is_type_checking(node.test):
            for statement in node.body:
                yield from walk(statement, annotation=True)
            for statement in node.orelse:
                yield from walk(statement, annotation=annotation)
            return
        for child in ast.iter_child_nodes(node):
            yield from walk(child, annotation=annotation)

    def named(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = base[: len(base) - node.level + 1] if node.level else []
            origin = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                full = f"{origin}.{alias.name}"
                yield full if full in modules else origin
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"}:
                yield str(node.args[0].value)

    yield from walk(ast.parse(source), annotation=False)


def is_type_checking(test: ast.expr) -> bool:
    return getattr(test, "id", None) == "TYPE_CHECKING" or getattr(test, "attr", None) == "TYPE_CHECKING"


def complaint(found: Import) -> str | None:
    """What is wrong with an import, or None."""
    here, there = room(found.module), room(found.imported)
    where = f"{found.module}:{found.line} imports {found.imported}"
    if there in {here, ISLAND}:
        return None
    if here == ISLAND:
        return f"{where}: on_device imports nothing of ours"
    mine, other = floor(here), floor(there)
    if mine is None or other is None:
        return f"{where}: `{here if mine is None else there}` has no floor yet; give it one in this file"
    if mine < other or (here, there) in NEIGHBOURS:
        return None
    if found.annotation and (here, there) in ANNOTATIONS_UPWARD:
        return None
    return f"{where}: {'upward' if mine > other else 'sideways'}"


def complaints(files: Mapping[str, str]) -> list[str]:
    """All complaints about sources by their path relative to the folder that holds edgedeploy/."""
    names = {path: path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in files}
    modules = frozenset(names.values())
    return [
        told
        for path, source in sorted(files.items())
        for found in imports(names[path], source, package=path.endswith("__init__.py"), modules=modules)
        if (told := complaint(found)) is not None
    ]


def sources() -> dict[str, str]:
    return {str(path.relative_to(PACKAGE.parent)): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}


def test_imports_go_downward() -> None:
    files = sources()
    assert len(files) > 20
    assert complaints(files) == []


def test_every_room_has_a_floor() -> None:
    rooms = {entry.stem for entry in PACKAGE.iterdir() if entry.suffix == ".py" or (entry / "__init__.py").is_file()}
    assert {name for name in rooms - {"__init__", ISLAND} if floor(name) is None} == set()


def test_no_room_is_on_two_floors() -> None:
    assert sum(map(len, FLOORS)) == len(frozenset().union(*FLOORS))


HOUSE = {
    "edgedeploy/__init__.py": "",
    "edgedeploy/cli/__init__.py": "",
    "edgedeploy/store.py": "",
    "edgedeploy/statistics.py": "",
    "edgedeploy/records.py": "",
    "edgedeploy/task/__init__.py": "",
    "edgedeploy/build/__init__.py": "",
    "edgedeploy/build/run.py": "",
    "edgedeploy/board/push.py": "",
    "edgedeploy/on_device/agent.py": "",
    "edgedeploy/on_device/schema.py": "",
}


@pytest.mark.parametrize(
    ("path", "source", "told"),
    [
        ("edgedeploy/store.py", "from edgedeploy.cli import main", "upward"),
        ("edgedeploy/store.py", "import edgedeploy.build.run", "upward"),
        ("edgedeploy/store.py", "from edgedeploy import build", "upward"),
        ("edgedeploy/store.py", "def f():\n    if True:\n        from edgedeploy.build import run", "upward"),
        ("edgedeploy/store.py", "try:\n    import edgedeploy.cli\nexcept ImportError:\n    pass", "upward"),
        ("edgedeploy/store.py", "from importlib import import_module\nimport_module('edgedeploy.cli')", "upward"),
        ("edgedeploy/store.py", "from . import cli", "upward"),
        ("edgedeploy/store.py", "from edgedeploy import Project", "upward"),
        ("edgedeploy/store.py", "import edgedeploy", "upward"),
        ("edgedeploy/board/push.py", "from ..build.run import build", "upward"),
        ("edgedeploy/store.py", "from edgedeploy.statistics import bootstrap", "sideways"),
        ("edgedeploy/records.py", "from edgedeploy.task import Task", "upward"),
        ("edgedeploy/records.py", "if TYPE_CHECKING:\n    pass\nelse:\n    from edgedeploy.task import Task", "upward"),
        ("edgedeploy/store.py", "if TYPE_CHECKING:\n    from edgedeploy.build import run", "upward"),
        ("edgedeploy/on_device/agent.py", "from edgedeploy.records import Report", "imports nothing of ours"),
        ("edgedeploy/on_device/agent.py", "from .. import records", "imports nothing of ours"),
        ("edgedeploy/attic.py", "from edgedeploy.records import Report", "`attic` has no floor"),
        ("edgedeploy/store.py", "from edgedeploy.attic import old", "`attic` has no floor"),
    ],
)
def test_a_wrong_import_is_caught(path: str, source: str, told: str) -> None:
    [found] = complaints({**HOUSE, path: source})
    assert told in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("edgedeploy/cli/__init__.py", "from edgedeploy.records import Report\nfrom edgedeploy import build"),
        ("edgedeploy/board/push.py", "from edgedeploy.on_device import schema"),
        ("edgedeploy/records.py", "from edgedeploy.on_device.schema import SCHEMA"),
        ("edgedeploy/records.py", "if TYPE_CHECKING:\n    from edgedeploy.task import Task"),
        ("edgedeploy/records.py", "import typing\nif typing.TYPE_CHECKING:\n    from edgedeploy.task import Task"),
        ("edgedeploy/on_device/agent.py", "from . import schema\nfrom .schema import SCHEMA\nimport json"),
        ("edgedeploy/build/__init__.py", "from .run import build\nfrom edgedeploy.build.run import build"),
        ("edgedeploy/store.py", "import sqlalchemy\nfrom edgedeployed import nothing"),
    ],
)
def test_a_right_import_is_left_alone(path: str, source: str) -> None:
    assert complaints({**HOUSE, path: source}) == []
