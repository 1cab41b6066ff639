"""Keeps artifacts by digest and records in SQL, so that what was built or measured once is found again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from edgedeploy.errors import StoreError
from edgedeploy.records import Artifact, BoardReleases, Report, Variant

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from sqlalchemy import Connection, Engine, Table

SCHEMA_VERSION = 1

_Record = TypeVar("_Record", Variant, Report, BoardReleases)
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # building one costs milliseconds


class Store:
    """A folder of objects named by their SHA-256, and a database of variants, reports and cached digests.

    A record is written only after every object it names is in its final place, in one transaction: whoever
    finds a record finds its bytes.
    """

    def __init__(self, folder: Path, project: str, url: str | None = None) -> None:
        """Open or create the store; several projects may share one database.

        `url` is any SQLAlchemy URL; SQLite in `folder` by default. Raises StoreError.
        """
        import sqlalchemy as sa

        self.folder = folder
        self._project = project
        self._objects = folder / "objects" / "sha256"
        try:
            self._objects.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder}: the store cannot be created: {error.strerror}.") from error
        metadata = sa.MetaData()
        self._meta = sa.Table(
            "meta",
            metadata,
            sa.Column("key", sa.String(64), primary_key=True),
            sa.Column("value", sa.Text, nullable=False),
        )
        self._variants = sa.Table(
            "variants",
            metadata,
            sa.Column("id", sa.String(64), primary_key=True),
            sa.Column("record", sa.JSON, nullable=False),
        )
        # What the last build of the project calls by which name: enough to push and profile without torch.
        self._current = sa.Table(
            "current",
            metadata,
            sa.Column("project", sa.String(64), primary_key=True),
            sa.Column("name", sa.String(128), primary_key=True),
            sa.Column("recipe", sa.String(64), nullable=False),
            sa.Column("position", sa.Integer, nullable=False),
            sa.Column("variant_id", sa.String(64), nullable=False),
        )
        self._reports = sa.Table(
            "reports",
            metadata,
            sa.Column("id", sa.String(64), primary_key=True),
            sa.Column("device", sa.String(64), nullable=False, index=True),
            sa.Column("variant_id", sa.String(64), nullable=False, index=True),
            sa.Column("measured_at", sa.String(32), nullable=False),
            sa.Column("record", sa.JSON, nullable=False),
        )
        self._releases = sa.Table(
            "releases",
            metadata,
            sa.Column("device", sa.String(64), primary_key=True),
            sa.Column("record", sa.JSON, nullable=False),
        )
        self._digests = sa.Table(
            "digests",
            metadata,
            sa.Column("key", sa.String(1024), primary_key=True),
            sa.Column("value", sa.Text, nullable=False),
        )
        self._url = url or f"sqlite:///{folder / 'records.db'}"
        self._engine: Engine | None = None
        try:
            # Without a pool there is no connection to give back, and none for a fork or a thread to share.
            self._engine = sa.create_engine(self._url, poolclass=sa.NullPool)
            with self._transaction() as connection:
                metadata.create_all(connection)
                found = connection.execute(sa.select(self._meta.c.value).where(self._meta.c.key == "schema")).scalar()
                if found is None:
                    connection.execute(self._meta.insert().values(key="schema", value=str(SCHEMA_VERSION)))
        except (sa.exc.ArgumentError, ModuleNotFoundError) as error:
            raise StoreError(f"the store's URL cannot be used: {error}; see `store.url` in edgedeploy.toml.") from error
        if found is not None and int(found) > SCHEMA_VERSION:
            raise StoreError(f"{self._where}: written by a newer edgedeploy (schema {found}); upgrade edgedeploy.")

    # -- objects ---------------------------------------------------------------------------------------------

    def put(self, path: Path, format: str) -> Artifact:  # noqa: A002 - the field's own name
        """Copy a file into the store under its digest; a second copy of the same bytes costs nothing."""
        digest, size_bytes = file_digest(path)
        artifact = Artifact(digest, format, size_bytes)
        if self.has(artifact):
            return artifact
        handle, name = tempfile.mkstemp(dir=self._objects, prefix=".incoming-")
        try:
            with os.fdopen(handle, "wb") as target, path.open("rb") as source:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
            Path(name).replace(self.path(artifact))
        except OSError as error:
            raise StoreError(
                f"{self._objects}: {path.name} cannot be kept: {error.strerror}; free some space."
            ) from error
        finally:
            Path(name).unlink(missing_ok=True)
        return artifact

    def path(self, artifact: Artifact) -> Path:
        """Where the artifact's bytes lie, or would lie."""
        return self._objects / artifact.sha256

    def has(self, artifact: Artifact) -> bool:
        """Whether the artifact's bytes are there whole."""
        try:
            return self.path(artifact).stat().st_size == artifact.size_bytes
        except OSError:
            return False

    # -- records ---------------------------------------------------------------------------------------------

    def variant(self, variant_id: str) -> Variant | None:
        """The variant, or None where it was never built or some of its bytes are gone."""
        import sqlalchemy as sa

        with self._transaction() as connection:
            record = connection.execute(
                sa.select(self._variants.c.record).where(self._variants.c.id == variant_id)
            ).scalar()
        if record is None or "packed" not in record:  # one of before files were packed is built again
            return None
        variant = _decode(Variant, record)
        artifacts = (variant.artifact, variant.packed, variant.contract, variant.probe)
        return variant if all(self.has(artifact) for artifact in artifacts) else None

    def save_variant(self, variant: Variant) -> None:
        """Record a variant whose artifacts are all in the store."""
        with self._transaction() as connection:
            _upsert(connection, self._variants, {"id": variant.id}, {"record": _encode(variant)})

    def set_current(self, variants: Sequence[Variant]) -> None:
        """Say which variants the project's plan now asks for, in this order, under their present labels."""
        rows = [
            {
                "project": self._project,
                "name": variant.name,
                "recipe": variant.recipe,
                "position": position,
                "variant_id": variant.id,
            }
            for position, variant in enumerate(variants)
        ]
        with self._transaction() as connection:
            connection.execute(self._current.delete().where(self._current.c.project == self._project))
            if rows:
                connection.execute(self._current.insert(), rows)

    def current(self) -> list[Variant]:
        """The variants of the last build, as `set_current` left them, without those whose bytes are gone."""
        import sqlalchemy as sa

        mine = sa.select(self._current).where(self._current.c.project == self._project)
        with self._transaction() as connection:
            rows = connection.execute(mine.order_by(self._current.c.position)).all()
        found = [(row, self.variant(row.variant_id)) for row in rows]
        return [replace(variant, name=row.name, recipe=row.recipe) for row, variant in found if variant is not None]

    def save_report(self, report: Report) -> None:
        """Record what a board said about a variant."""
        columns = {
            "device": report.device,
            "variant_id": report.variant_id,
            "measured_at": report.measured_at,
            "record": _encode(report),
        }
        with self._transaction() as connection:
            _upsert(connection, self._reports, {"id": report.id}, columns)

    def reports(self, device: str) -> list[Report]:
        """All reports of a device, oldest first."""
        import sqlalchemy as sa

        query = (
            sa.select(self._reports.c.record)
            .where(self._reports.c.device == device)
            .order_by(self._reports.c.measured_at)
        )
        with self._transaction() as connection:
            return [_decode(Report, record) for record in connection.execute(query).scalars()]

    def save_releases(self, seen: BoardReleases) -> None:
        """Record what a board had when it was last seen."""
        with self._transaction() as connection:
            _upsert(connection, self._releases, {"device": seen.device}, {"record": _encode(seen)})

    def releases(self, device: str) -> BoardReleases | None:
        """What a board had when it was last seen, or None."""
        import sqlalchemy as sa

        query = sa.select(self._releases.c.record).where(self._releases.c.device == device)
        with self._transaction() as connection:
            record = connection.execute(query).scalar()
        return None if record is None else _decode(BoardReleases, record)

    def digest_cache(self) -> MutableMapping[str, str]:
        """Digests that are dear to compute, by a key of at most 1024 characters."""
        return _DigestCache(self)

    # -- the database ----------------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return self._engine.url.render_as_string(hide_password=True) if self._engine else str(self.folder)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        import sqlalchemy as sa

        assert self._engine is not None
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise StoreError(
                f"{self._where}: the database refuses: {cause}; if it is damaged, move it away and build again."
            ) from error


class _DigestCache(MutableMapping[str, str]):
    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, key: str) -> str:
        import sqlalchemy as sa

        table = self._store._digests
        with self._store._transaction() as connection:
            value = connection.execute(sa.select(table.c.value).where(table.c.key == key)).scalar()
        if value is None:
            raise KeyError(key)
        return str(value)

    def __setitem__(self, key: str, value: str) -> None:
        with self._store._transaction() as connection:
            _upsert(connection, self._store._digests, {"key": key}, {"value": value})

    def __delitem__(self, key: str) -> None:
        table = self._store._digests
        with self._store._transaction() as connection:
            if connection.execute(table.delete().where(table.c.key == key)).rowcount == 0:
                raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        import sqlalchemy as sa

        with self._store._transaction() as connection:
            keys = list(connection.execute(sa.select(self._store._digests.c.key)).scalars())
        return iter(keys)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def file_digest(path: Path) -> tuple[str, int]:
    """SHA-256 in hex and size in bytes of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.tell()


def _encode(record: Variant | Report | BoardReleases) -> Any:
    return asdict(record)


def _decode(cls: type[_Record], record: Any) -> _Record:
    from pydantic import TypeAdapter

    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return cast("_Record", _ADAPTERS[cls].validate_python(record))


def _upsert(connection: Connection, table: Table, key: dict[str, str], values: dict[str, Any]) -> None:
    """Replace a row; delete and insert in one transaction is the form that every database understands."""
    column, value = next(iter(key.items()))
    connection.execute(table.delete().where(table.c[column] == value))
    connection.execute(table.insert().values(**key, **values))
