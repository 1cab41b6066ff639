"""A task file is somebody's own code: here it runs beside its own imports, and what it raises becomes one sentence."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from edgedeploy.errors import EdgeDeployError, PlanError
from edgedeploy.task.watching import watch_files

P = ParamSpec("P")
R = TypeVar("R")

_LOCK = threading.RLock()  # sys.path and sys.modules belong to the whole process
_resident: UserCode | None = None

_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED = {
    Path(root).resolve()
    for root in (sys.prefix, sys.base_prefix, *(sysconfig.get_path(k) for k in ("stdlib", "purelib", "platlib")))
} | {_PACKAGE}


class _FromSource(SourceFileLoader):
    """Ignores compiled files, which go by whole seconds and would let an edit of the last second go unseen."""

    def path_stats(self, path: Any) -> Any:
        raise OSError(f"{path} is always compiled afresh")


class _LocalFinder:
    """Finds the modules under one folder, straight from their source."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: Any = None, target: object = None) -> ModuleSpec | None:
        for entry in [str(self.folder)] if path is None else list(path):
            if Path(entry).is_relative_to(self.folder):
                loaders = (ExtensionFileLoader, EXTENSION_SUFFIXES), (_FromSource, SOURCE_SUFFIXES)
                spec = FileFinder(entry, *loaders).find_spec(name, target)  # type: ignore[arg-type]
                if spec is not None and spec.loader is not None:
                    return spec
        return None


class UserCode:
    """The module of one task file, and the modules it imports from its own folder.

    Two tasks may both import a `helpers` of their own: each sees its own one, at import and at every later call.
    """

    def __init__(self, file: Path) -> None:
        self.file = file.resolve()
        self.folder = self.file.parent
        self.installed = [root for root in _INSTALLED if not self.folder.is_relative_to(root)]
        self.modules: dict[str, ModuleType] = {}
        self.opened: set[Path] = set()
        self.listed: set[Path] = set()
        self._displaced: dict[str, ModuleType] = {}
        self._modules_seen = 0

    def load(self) -> ModuleType:
        """Import the task file under a name of its own. Raises PlanError."""
        name = "_edgedeploy_task_" + hashlib.sha256(os.fsencode(self.file)).hexdigest()[:16]
        spec = importlib.util.spec_from_file_location(name, self.file, loader=_FromSource(name, str(self.file)))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        self.modules = {name: module}
        with self.running(None):
            spec.loader.exec_module(module)
        return module

    def guard(self, function: Callable[P, R], name: str) -> Callable[P, R]:
        """The same function, with its folder at hand and its exceptions as PlanError."""

        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.running(f"{name}()"):
                return function(*args, **kwargs)

        return guarded

    @contextmanager
    def running(self, what: str | None) -> Iterator[None]:
        """Run the body as code of the user; `what` names it in messages, None is the file as a whole."""
        with _LOCK, self._importable():
            try:
                yield
            except EdgeDeployError:
                raise
            except (Exception, SystemExit) as error:  # whatever a stranger's code may raise
                raise PlanError(self._sentence(what, error)) from error

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note which files and folders the user's code reads meanwhile, into `opened` and `listed`."""
        with watch_files(self.folder) as seen:
            yield
        for path in seen.opened:
            if path.is_file() and path.suffix != ".pyc" and not self._is_installed(path):
                self.opened.add(path.resolve())
        self.listed |= {path.resolve() for path in seen.listed if path.is_dir() and not self._is_installed(path)}

    def local_files(self) -> set[Path]:
        """Files of the modules that were imported from under the task's folder, the task file included."""
        return {Path(file).resolve() for m in self.modules.values() if (file := getattr(m, "__file__", None))}

    @contextmanager
    def _importable(self) -> Iterator[None]:
        if _resident is not self:
            self._move_in()
        path_finder = sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else len(sys.meta_path)
        finder = _LocalFinder(self.folder)
        sys.meta_path.insert(path_finder, finder)
        sys.path.insert(0, str(self.folder))
        try:
            yield
        finally:
            sys.path.remove(str(self.folder))
            sys.meta_path.remove(finder)
            if len(sys.modules) != self._modules_seen:
                self.modules = {n: m for n, m in list(sys.modules.items()) if self._is_local(n, m)}
                self._modules_seen = len(sys.modules)

    def _move_in(self) -> None:
        # The modules of the last task stay until another's are needed: torch.export looks them up by name.
        global _resident
        if _resident is not None:
            _resident._move_out()
        self._displaced = {n: m for n, m in list(sys.modules.items()) if self._is_local(n, m)}
        for name in self._displaced:
            del sys.modules[name]
        sys.modules.update(self.modules)
        self._modules_seen = 0
        _resident = self

    def _move_out(self) -> None:
        for name in self.modules:
            sys.modules.pop(name, None)
        sys.modules.update(self._displaced)

    def _is_local(self, name: str, module: ModuleType) -> bool:
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.startswith(f"{self.folder}{os.sep}"):
            return False
        return name != "__main__" and not self._is_installed(Path(file))

    def _is_installed(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self.installed)

    def _sentence(self, what: str | None, error: BaseException) -> str:
        message = " ".join(str(error).split())[:400]
        if isinstance(error, SyntaxError) and error.filename:
            return f"{error.filename}:{error.lineno}: {error.msg} ({type(error).__name__})"
        where = str(self.file)
        for frame in traceback.extract_tb(error.__traceback__):
            path = Path(frame.filename)
            if path.is_relative_to(self.folder) and not self._is_installed(path):
                where = f"{frame.filename}:{frame.lineno}"
        return f"{where}: {what or 'the file'} raised {type(error).__name__}" + (f": {message}" if message else "")
