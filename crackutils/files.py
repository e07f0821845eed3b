"""Atomic writes of files and folders, hashes, locks, templates and progress bars."""

import contextlib
import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from crackutils.config import CrackutilsError

_PERMIT = "Choose a folder that you may write to, or close the file where it is open."
_MAKE_ROOM = "Free disk space or allow writing there, then run the same command again; it continues."


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def hash_sources(folder: Path) -> str:
    """Return a SHA-256 over the names and contents of code, weights, templates and settings in and below a folder."""
    files = (f for f in folder.rglob("*") if f.suffix in (".py", ".npz", ".h5", ".json", ".toml", ".j2"))
    lines = (f"{f.relative_to(folder).as_posix()} {sha256(f)}" for f in files)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def as_text(name: str) -> str:
    """Return a file's name as text for tables and files; bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def printable(name: str) -> str:
    """Return a name for a message: as `as_text`, with escapes also for line breaks and other control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in as_text(name))


def name_some(names: Iterable[Any]) -> str:
    """Return at most three of the names, and how many more there are, for a message."""
    names = [printable(str(name)) for name in names]
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which replaces `path` if the block succeeds; CrackutilsError if it cannot be written."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")  # other processes may write the same file
    with explain_write_errors(path), contextlib.ExitStack() as stack:
        path.parent.mkdir(parents=True, exist_ok=True)
        stack.callback(part.unlink, missing_ok=True)  # it exists only after an error
        yield part
        os.replace(part, path)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write bytes, or text as UTF-8. Even after a kill, the file has its old content or the complete new one."""
    with replacing_file(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def save_array(path: Path, array: Any) -> None:
    """Write a NumPy array as `write_atomically` writes text."""
    import numpy as np

    with replacing_file(path) as part, open(part, "wb") as handle:  # NumPy would add .npy to a name
        np.save(handle, array)


def render_template(file: Path, values: dict[str, Any]) -> str:
    """Return a Jinja template filled with values; .html.j2 templates escape them."""
    from jinja2 import Environment, FileSystemLoader

    escape, options = file.name.endswith(".html.j2"), {"trim_blocks": True, "keep_trailing_newline": True}
    templates = Environment(loader=FileSystemLoader(file.parent), autoescape=escape, **options)
    return templates.get_template(file.name).render(values)


def progress(items: Iterable[Any], what: str, total: int | None = None, unit: str = "image") -> Iterator[Any]:
    """Iterate over `items` with a progress bar on standard output; outside a terminal it is printed every 5 s."""
    from tqdm import tqdm

    pause = 0.1 if sys.stdout.isatty() else 5
    return iter(tqdm(items, what, total, file=sys.stdout, unit=unit, mininterval=pause, ncols=90))


@contextlib.contextmanager
def explain_write_errors(out: Path, remedy: str = _MAKE_ROOM) -> Iterator[None]:
    """Turn an OSError of the block into a CrackutilsError that names `out`, the cause and the remedy."""
    try:
        yield
    except BrokenPipeError:  # of the terminal, not of the file
        raise
    except OSError as error:
        why = ": ".join(str(part) for part in (error.strerror, error.filename) if part)
        remedy = _PERMIT if isinstance(error, PermissionError) or "Read-only" in why else remedy
        raise CrackutilsError(f"{out} cannot be written ({why}). {remedy}") from error


@contextlib.contextmanager
def lock_file(path: Path, busy: str = "") -> Iterator[None]:
    """Hold a lock during the block; `path` is its empty file, which is removed at the end.

    If another process holds the lock, raises CrackutilsError(busy), or waits if `busy` is empty. Raises OSError if the
    file cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if busy:
            raise CrackutilsError(busy) from error
        print(f"waiting for another process that writes {path.name.removeprefix('.').removesuffix('.lock')}")
        lock.acquire()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # on Windows the lock removes its file by itself
            path.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that then replaces `target`; others wait. CrackutilsError if it cannot be written."""
    work, old = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.old")
    with explain_write_errors(target), contextlib.ExitStack() as stack:
        target.parent.mkdir(parents=True, exist_ok=True)
        stack.enter_context(lock_file(target.with_name(f".{target.name}.lock")))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)  # left by a killed run
        if old.exists() and not target.exists():  # killed between the two renamings below
            os.replace(old, target)
        work.mkdir()
        yield work
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        os.replace(work, target)
        shutil.rmtree(old, ignore_errors=True)
