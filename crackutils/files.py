"""Files and folders that are replaced whole, hashed, locked, or watched with a progress bar."""

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

_MAKE_ROOM = "Make room or allow writing there, and run the same command again; it continues."


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def hash_sources(folder: Path) -> str:
    """Return a SHA-256 over the names and contents of all code, weights and templates in a folder and below it."""
    files = (f for f in folder.rglob("*") if f.suffix in (".py", ".npz", ".h5", ".toml", ".j2"))
    lines = (f"{f.relative_to(folder).as_posix()} {sha256(f)}" for f in files)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def as_text(name: str) -> str:
    """Return a file's name with bytes that are no UTF-8 as escapes, which a table or a file can hold."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def printable(name: str) -> str:
    """Return a name `as_text` for a message: line breaks and other control characters are escapes too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in as_text(name))


def name_some(names: Iterable[Any]) -> str:
    """Return at most three of the names, and how many more there are, for a message."""
    names = [printable(str(name)) for name in names]
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Give a new file's path, which replaces `path` after a block without error; CrackutilsError if it cannot."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")  # of this process, if others write it as well
    with explain_write_errors(path), contextlib.ExitStack() as stack:
        path.parent.mkdir(parents=True, exist_ok=True)
        stack.callback(part.unlink, missing_ok=True)  # there after an error only
        yield part
        os.replace(part, path)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write bytes, or text as UTF-8, so that a reader, or a kill, sees the old file or the whole new one."""
    with replacing_file(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def save_array(path: Path, array: Any) -> None:
    """Write a NumPy array as `write_atomically` writes text."""
    import numpy as np

    with replacing_file(path) as part, open(part, "wb") as handle:  # given a name, NumPy would add .npy to it
        np.save(handle, array)


def render_template(file: Path, values: dict[str, Any]) -> str:
    """Return the text of a Jinja template with its values; one that ends in .html.j2 escapes them."""
    from jinja2 import Environment, FileSystemLoader

    escape, options = file.name.endswith(".html.j2"), {"trim_blocks": True, "keep_trailing_newline": True}
    templates = Environment(loader=FileSystemLoader(file.parent), autoescape=escape, **options)
    return templates.get_template(file.name).render(values)


def progress(items: Iterable[Any], what: str, total: int | None = None, unit: str = "image") -> Iterator[Any]:
    """Iterate over `items` with a progress bar on standard output, sparse where that is no terminal."""
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
        raise CrackutilsError(f"{out} cannot be written ({why}). {remedy}") from error


@contextlib.contextmanager
def lock_file(path: Path, busy: str = "") -> Iterator[None]:
    """Hold a lock for the block; `path` is an empty file that stands for it and is removed at the end.

    Where another process holds it, raises CrackutilsError(busy), or waits if there is no such text. Raises OSError if
    the file cannot be written.
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
    """Give a temporary folder that takes the place of `target` once the block has ended without an error.

    One process at a time: another waits. Raises CrackutilsError where something cannot be written.
    """
    work, old = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.old")
    with explain_write_errors(target), contextlib.ExitStack() as stack:
        target.parent.mkdir(parents=True, exist_ok=True)
        stack.enter_context(lock_file(target.with_name(f".{target.name}.lock")))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)  # what a killed run has left
        if old.exists() and not target.exists():  # killed between the two renamings below
            os.replace(old, target)
        work.mkdir()
        yield work
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        os.replace(work, target)
        shutil.rmtree(old, ignore_errors=True)
