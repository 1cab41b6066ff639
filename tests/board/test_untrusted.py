"""No text of a board's steers the terminal that shows it, wherever in a document it stands."""

from __future__ import annotations

from typing import Any

import pytest

from edgedeploy.board.untrusted import plain_document

STEERING, SHOWN = "\x1b[2J", "\ufffd[2J"


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        ([1, STEERING], [1, SHOWN]),
        ([True, {"a": [0, [0, STEERING]]}], [True, {"a": [0, [0, SHOWN]]}]),
        ([1, {STEERING: 2}], [1, {SHOWN: 2}]),
        ([1.5, None, STEERING], [1.5, None, SHOWN]),
        ([], []),
    ],
)
def test_texts_after_numbers_are_looked_at(document: Any, shown: Any) -> None:
    assert plain_document(document) == shown


def test_lists_of_whole_numbers_are_passed_over() -> None:
    samples = list(range(1000))
    assert plain_document({"samples_ns": samples})["samples_ns"] is samples
