"""Says what an accelerator is to the adapters, data that switches it on, and what share of a file it really took."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

CPU = "cpu"
# What an adapter gets: beside the name how to switch it on, where the runtime does not do so by itself, and the folder
# for what is made of this file and kept.
ON_CPU: dict[str, Any] = {"name": CPU, "switch": None, "caches": None}

_CACHE = "{cache}"
_TABLES = ("options", "session")


def filled(switch: dict[str, Any], threads: int, caches: str | None, version: str) -> dict[str, Any]:
    """Return the switch with `{threads}` and `{cache}` in its option values replaced, the cache's folder made.

    `caches` is the folder for all that was ever made of one file. What was made of it by another release of the
    runtime, or under other options, is not good for this one, so each has a folder of its own there. Raises OSError.
    """
    question = json.dumps([version, threads, switch], sort_keys=True).encode()
    cache = os.path.join(caches or "", hashlib.sha256(question).hexdigest()[:16])
    done = dict(switch)
    for table in _TABLES:
        given = switch.get(table, {})
        if any(_CACHE in value for value in given.values()):
            os.makedirs(cache, exist_ok=True)
        done[table] = {
            key: value.replace(_CACHE, cache).replace("{threads}", str(threads)) for key, value in given.items()
        }
    return done


def kept(caches: str) -> list[str]:
    """Return the paths of the files that were made of one file and kept, sorted."""
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(caches) for name in names)


def placed(asked: str, nodes: dict[str, int] | None) -> tuple[str, float | None]:
    """Return where the file ran and the share of its nodes that ran there; None where the runtime does not tell.

    `nodes` counts the nodes by what took them. That is what was asked for where it took a node at all, else what took
    most; a delegate of CPU kernels that the runtime applies by itself is the CPU where the CPU was asked for.
    """
    total = sum(nodes.values()) if nodes else 0
    if not nodes or not total:
        return asked, None
    if asked == CPU:
        return CPU, 1.0
    taken = nodes.get(asked, 0)
    return (asked, taken / total) if taken else (max(nodes, key=lambda name: nodes[name]), 0.0)


def elsewhere(asked: str, nodes: dict[str, int] | None) -> str:
    """Return in words which nodes ran elsewhere than asked, or ""."""
    if asked == CPU or not nodes:
        return ""
    total = sum(nodes.values())
    others = [f"{count} of {total} nodes on {name}" for name, count in sorted(nodes.items()) if name != asked and count]
    return ", ".join(others)


def found_library(module: Any, library: str) -> str:
    """Return the path of a library: relative ones lie beside the runtime's package, or where the loader looks."""
    packages = os.path.dirname(os.path.dirname(os.path.abspath(getattr(module, "__file__", "") or ".")))
    beside = os.path.join(packages, library)
    return beside if not os.path.isabs(library) and os.path.exists(beside) else library
