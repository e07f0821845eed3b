"""Paths, profiles, threads and the one kind of error that users see.

Everything that a profile fixes (data, split, weights, threads, budgets) stands in `PROFILES`.
At first this module imports the standard library only, so that it can set thread counts before NumPy and TensorFlow
start.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def hash_sources(folder: Path) -> str:
    """Return a SHA-256 over all files in a package folder and its subfolders that decide results: code, weights, templates."""
    files = (f for ending in ("py", "npz", "j2") for f in folder.rglob(f"*.{ending}"))
    lines = (f"{f.relative_to(folder).as_posix()} {sha256(f)}" for f in files)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write bytes, or text as UTF-8, so that a reader, or a kill, sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")  # of this process, if others write it as well
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)


def save_array(path: Path, array: Any) -> None:
    """Write a NumPy array as `write_atomically` writes text."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with open(part, "wb") as handle:
        np.save(handle, array)
    os.replace(part, path)


def progress(items: Iterable[Any], what: str, total: int | None = None, unit: str = "image") -> Iterator[Any]:
    """Iterate over `items` with a progress bar on standard output, sparse where that is no terminal."""
    from tqdm import tqdm

    slow = not sys.stdout.isatty()
    return iter(
        tqdm(items, what, total, file=sys.stdout, unit=unit, mininterval=5 if slow else 0.1, ncols=90, leave=True)
    )


@contextlib.contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the place of `target` once the block has ended without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work, old = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.old")
    shutil.rmtree(work, ignore_errors=True)  # what a killed run has left
    if old.exists() and not target.exists():  # killed between the two renamings below
        os.replace(old, target)
    work.mkdir()
    try:
        yield work
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        os.replace(work, target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
