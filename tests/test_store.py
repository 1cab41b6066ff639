from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from edgedeploy.errors import StoreError
from edgedeploy.records import LayerAccount, StepAccount, Variant
from edgedeploy.store import Store
from tests.support.records import make_report, make_variant


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", "project")


def keep(store: Store, tmp_path: Path, name: str) -> Variant:
    """A variant whose bytes are really in the store."""
    path = tmp_path / "file"
    path.write_bytes(name.encode())
    artifact = store.put(path, "onnx")
    variant = replace(make_variant(name), artifact=artifact, contract=artifact, probe=artifact, packed=artifact)
    store.save_variant(variant)
    return variant


def test_a_variant_comes_back_as_it_was(store: Store, tmp_path: Path) -> None:
    variant = keep(store, tmp_path, "a-onnx-fp32")
    assert store.variant(variant.id) == variant
    again = Store(tmp_path / "store", "project")
    assert again.variant(variant.id) == variant
    assert again.variant("0" * 64) is None


def test_a_variant_keeps_what_each_step_and_layer_came_to(store: Store, tmp_path: Path) -> None:
    variant = keep(store, tmp_path, "a-onnx-fp32")
    assert (variant.steps, variant.layers) == ((), ())
    steps = (StepAccount("source", 5, 4, None, 20, quality=variant.quality), StepAccount("a", 5, 4, 7, 20, 1, 2))
    layers = (LayerAccount("a.weight", (2, 3), 0.5, 3, 2), LayerAccount("b.weight", (4, 1, 3, 3), 0.0, 36, None, 0.01))
    store.save_variant(replace(variant, steps=steps, layers=layers))
    found = store.variant(variant.id)
    assert found is not None
    assert (found.steps, found.layers) == (steps, layers)


def test_a_variant_of_before_there_were_accounts_is_read_without_one(store: Store, tmp_path: Path) -> None:
    variant = keep(store, tmp_path, "a-onnx-fp32")
    with sqlite3.connect(tmp_path / "store" / "records.db") as database:
        database.execute("update variants set record = json_remove(record, '$.steps', '$.layers')")
        (record,) = database.execute("select record from variants").fetchone()
    database.close()
    assert "steps" not in record
    assert store.variant(variant.id) == variant


def test_a_variant_of_before_there_were_packed_files_is_not_found(store: Store, tmp_path: Path) -> None:
    variant = keep(store, tmp_path, "a-onnx-fp32")
    store.set_current([variant])
    with sqlite3.connect(tmp_path / "store" / "records.db") as database:
        database.execute("update variants set record = json_remove(record, '$.packed')")
    database.close()
    assert store.variant(variant.id) is None
    assert store.current() == []


def test_a_variant_whose_bytes_are_gone_or_cut_is_not_found(store: Store, tmp_path: Path) -> None:
    variant = keep(store, tmp_path, "a-onnx-fp32")
    store.set_current([variant])
    store.path(variant.artifact).write_bytes(b"")
    assert store.variant(variant.id) is None
    assert store.current() == []
    store.path(variant.artifact).unlink()
    assert store.variant(variant.id) is None


def test_putting_mends_a_cut_object_and_leaves_no_temporary_file(store: Store, tmp_path: Path) -> None:
    variant = keep(store, tmp_path, "a-onnx-fp32")
    store.path(variant.artifact).write_bytes(b"x")
    assert keep(store, tmp_path, "a-onnx-fp32") == variant
    assert store.variant(variant.id) == variant
    assert [path.name for path in (tmp_path / "store" / "objects" / "sha256").iterdir()] == [variant.artifact.sha256]


def test_current_keeps_order_and_present_labels_of_each_project(store: Store, tmp_path: Path) -> None:
    a, b = keep(store, tmp_path, "a-onnx-fp32"), keep(store, tmp_path, "b-onnx-fp32")
    store.set_current([b, replace(a, name="renamed-onnx-fp32", recipe="renamed")])
    other = Store(tmp_path / "store", "other")
    other.set_current([a])
    assert [(v.name, v.recipe) for v in store.current()] == [("b-onnx-fp32", "b"), ("renamed-onnx-fp32", "renamed")]
    assert [v.name for v in other.current()] == ["a-onnx-fp32"]
    store.set_current([])
    assert (store.current(), len(other.current())) == ([], 1)


def test_reports_come_back_oldest_first_with_every_sample(store: Store) -> None:
    variant = make_variant()
    late = replace(make_report(variant, 2.0), measured_at="2026-01-02T00:00:00.000+00:00")
    early = make_report(variant, 1.0)
    store.save_report(late)
    store.save_report(early)
    store.save_report(early)
    assert store.reports("here") == [early, late]
    assert store.reports("elsewhere") == []


def test_the_digest_cache_is_a_mapping(store: Store) -> None:
    cache = store.digest_cache()
    cache["key"] = "one"
    cache["key"] = "two"
    assert dict(cache) == {"key": "two"}
    del cache["key"]
    assert "key" not in cache
    with pytest.raises(KeyError):
        del cache["key"]


def test_a_damaged_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "records.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(StoreError, match=r"records\.db.*not a database.*move it away"):
        Store(tmp_path, "project")


def test_a_newer_database_is_refused(store: Store, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store" / "records.db") as database:
        database.execute("update meta set value = '99' where key = 'schema'")
    database.close()
    with pytest.raises(StoreError, match="upgrade edgedeploy"):
        Store(tmp_path / "store", "project")


def test_a_url_that_means_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"store\.url"):
        Store(tmp_path, "project", "nonsense")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be created"):
        Store(tmp_path / "file" / "store", "project")
