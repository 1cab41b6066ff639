"""Small real tasks to start from: each a folder that `edgedeploy init` copies, and that the tests train."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.errors import PlanError


@dataclass(frozen=True, slots=True)
class Example:
    """A folder of files to copy, and what it is in one line."""

    folder: Path
    title: str


_HERE = Path(__file__).resolve().parent

BLANK = "blank"

EXAMPLES: dict[str, Example] = {
    "digits-cnn": Example(_HERE / "digits-cnn", "convolutional net with inverted residuals on 8x8 digits"),
    "digits-gru": Example(_HERE / "digits-gru", "recurrent net over the rows of 8x8 digits"),
    "digits-transformer": Example(_HERE / "digits-transformer", "Transformer encoder over the rows of 8x8 digits"),
    BLANK: Example(_HERE / "blank", "a commented task on made-up sensor data, to be replaced by your own"),
}


def copy_example(name: str, folder: Path) -> list[Path]:
    """Copy an example's files into a folder, made if it is not there, and return their paths.

    Raises PlanError, having written nothing, when the name is unknown or any of the files is there already.
    """
    if name not in EXAMPLES:
        raise PlanError(f"no example `{name}`; there: {', '.join(EXAMPLES)}")
    sources = sorted(path for path in EXAMPLES[name].folder.iterdir() if path.is_file())
    there = [source.name for source in sources if (folder / source.name).exists()]
    if there:
        raise PlanError(f"{folder}: {', '.join(there)} is there already; nothing was written, choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copyfile(source, folder / source.name)) for source in sources]
    except OSError as error:
        raise PlanError(f"{folder}: cannot be written to ({error.strerror or error})") from error
