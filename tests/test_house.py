"""The rules of the house that a linter does not know."""

from __future__ import annotations

import ast
import email
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgedeploy import errors

ROOT = Path(__file__).parents[1]
MAX_LINES = 400
TEXT = {".py", ".toml", ".j2", ".css", ".js", ".sh", ".md"}


def files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in TEXT and "__pycache__" not in path.parts:
                yield path


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return found


# -- sources -------------------------------------------------------------------------------------------------


def lacking(docstring: str | None) -> str | None:
    """What a module docstring lacks; below its one sentence it may show more."""
    if not docstring:
        return "no docstring"
    first = docstring.split("\n\n")[0].strip()
    if not first.endswith("."):
        return "its first paragraph is not a sentence"
    if re.search(r"[.!?]\s+[A-Z]", first):
        return "its first paragraph is more than one sentence"
    return None


def test_every_module_says_in_one_sentence_why_it_exists() -> None:
    wrong = {}
    for path in files("edgedeploy", "tools"):
        source = path.read_text("utf-8")
        if path.suffix == ".py" and source.strip() and (why := lacking(ast.get_docstring(ast.parse(source)))):
            wrong[name(path)] = why
    assert wrong == {}


@pytest.mark.parametrize(
    ("docstring", "told"),
    [
        (None, "no docstring"),
        ("", "no docstring"),
        ("Sends files", "not a sentence"),
        ("Sends files. It also hashes them.", "more than one"),
    ],
)
def test_a_poor_docstring_is_caught(docstring: str | None, told: str) -> None:
    assert told in str(lacking(docstring))


def test_a_good_docstring_passes() -> None:
    assert lacking("Sends files, e.g. models, to a board.\n\nMore below. And more.") is None


def test_no_file_is_too_long() -> None:
    lengths = {name(path): len(path.read_text("utf-8").splitlines()) for path in files("edgedeploy", "tools", "tests")}
    assert len(lengths) > 40
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


# -- errors --------------------------------------------------------------------------------------------------


def drawn_tree() -> dict[str, str | None]:
    """Each class of the tree in the docstring of errors.py with the class that it hangs from."""
    parents: dict[str, str | None] = {}
    branch: list[tuple[int, str]] = []
    for indent, drawn in re.findall(r"^( {4,})([A-Z]\w+)(?: {2,}|$)", errors.__doc__ or "", flags=re.MULTILINE):
        while branch and branch[-1][0] >= len(indent):
            branch.pop()
        parents[drawn] = branch[-1][1] if branch else None
        branch.append((len(indent), drawn))
    return parents


def test_the_error_tree_is_drawn_as_it_is() -> None:
    classes = {
        item.__name__: item.__base__.__name__ if issubclass(item.__base__ or object, errors.EdgeDeployError) else None
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, errors.EdgeDeployError) and item.__base__ is not None
    }
    assert len(classes) > 10
    assert drawn_tree() == classes


def test_only_errors_py_defines_errors_for_the_user() -> None:
    elsewhere = []
    for path in files("edgedeploy"):
        if path.suffix == ".py" and path.name != "errors.py":
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    bases = {getattr(base, "id", getattr(base, "attr", "")) for base in node.bases}
                    if bases & set(drawn_tree()):
                        elsewhere.append(f"{name(path)}: {node.name}")
    assert elsewhere == []


# -- what is published ---------------------------------------------------------------------------------------


def test_the_licence_is_the_one_that_is_declared(project: dict[str, Any]) -> None:
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert re.search(r"Apache License\s+Version 2\.0, January 2004", text)
    assert "END OF TERMS AND CONDITIONS" in text
    assert not [line for line in project["classifiers"] if line.startswith("License ::")]


def test_every_pin_keeps_within_the_published_ranges(project: dict[str, Any]) -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line:
            pinned = Requirement(line)
            assert [specifier.operator for specifier in pinned.specifier] == ["=="], line
            pins[canonicalize_name(pinned.name)] = next(iter(pinned.specifier)).version
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    asked = [requirement for requirement in map(Requirement, wanted) if requirement.name != project["name"]]
    unpinned = {requirement.name for requirement in asked if canonicalize_name(requirement.name) not in pins}
    assert unpinned == set()
    outside = [str(r) for r in asked if pins[canonicalize_name(r.name)] not in r.specifier]
    assert outside == []


def test_what_only_pushes_and_profiles_needs_no_torch(project: dict[str, Any]) -> None:
    heavy = re.compile(r"^(torch|onnx|litert|ai-edge|safetensors|scikit)")
    assert not [line for line in project["dependencies"] if heavy.match(line)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    program = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        yield archive


def test_the_wheel_holds_what_the_code_reads_beside_itself(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    profiles = {f"edgedeploy/{name(path)}" for path in (ROOT / "device_profiles").glob("*.toml")}
    templates = {name(path) for path in (ROOT / "edgedeploy/report/templates").iterdir()}
    examples = {
        name(path)
        for path in (ROOT / "edgedeploy/examples").glob("*/*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    recipes = {name(path) for path in (ROOT / "edgedeploy/plan/recipes").glob("*.toml")}
    assert len(profiles) >= 10
    assert len(recipes) >= 5
    assert len(templates) >= 5
    assert len(examples) >= 9
    assert profiles | templates | examples | recipes | {"edgedeploy/py.typed"} <= held


def test_the_wheel_holds_every_module_and_nothing_else_of_the_project(wheel: zipfile.ZipFile) -> None:
    modules = {name(path) for path in (ROOT / "edgedeploy").rglob("*.py")}
    held = set(wheel.namelist())
    assert modules <= held
    assert {entry.split("/")[0] for entry in held if ".dist-info" not in entry} == {"edgedeploy"}
    assert not [entry for entry in held if "__pycache__" in entry or entry.endswith(".pyc")]


def test_the_wheel_says_the_same_as_pyproject(wheel: zipfile.ZipFile, project: dict[str, Any]) -> None:
    info = f"edgedeploy-{project['version']}.dist-info"
    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert metadata["Name"] == "edgedeploy"
    assert metadata["Version"] == project["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert b"edgedeploy = edgedeploy.cli:main" in wheel.read(f"{info}/entry_points.txt")
