"""Which files are scored: a folder, a list or a table of them, on disk or at any address that fsspec opens."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from crackutils.config import CrackutilsError
from crackutils.files import name_some
from crackutils.folders import SYSTEM, find_pictures, print_left_out
from crackutils.images import FORMATS, RAW, ImageError
from crackutils.scoring import file_state

BLOCK = 256  # files of a block, a multiple of the engines' batches: what is lost where a process dies, at most
_COLUMNS = ("file", "path", "url", "uri", "image")  # of a table, the likeliest first


@dataclass(frozen=True)
class Photos:
    """Files to read, in order."""

    root: str  # folder or address that relative names lie in
    names: list[str]
    states: list[str]  # size and time of change of each, empty where it is not known


@dataclass(frozen=True)
class Block:
    """Some files of `Photos`."""

    number: int
    key: str  # of the files, their states and the model
    places: list[tuple[str, str]]  # name, and path or address

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.places)


def is_remote(place: str) -> bool:
    """Return whether a place is an address, as s3://bucket/folder, and no path."""
    return "://" in place


def open_place(place: str) -> tuple[Any, str]:
    """Return the fsspec file system of a path or an address, and the path there.

    Raises CrackutilsError for an address of an unknown kind, and where the package that reads its kind is missing.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as error:
        why = f"{place} cannot be opened ({' '.join(str(error).split())})"
        raise CrackutilsError(f"{why}. Install what is missing, or give another address.") from error


def find_photos(source: str, own: str) -> Photos:
    """Return the pictures of a source; what is left out of a folder is counted, but for `own`, a folder to write.

    A source is a folder, a text file (.txt) with a path or an address on each line, or a Parquet table (.parquet) with
    a column of them; relative ones lie beside it. At an address, pictures are known by their names alone. Raises
    CrackutilsError for a source that cannot be read, and where there are no pictures.
    """
    kind, here = PurePosixPath(source).suffix.lower(), not is_remote(source)
    if kind == ".parquet" or (kind == ".txt" and not os.path.isdir(source)):
        root, names = os.path.dirname(source if not here else os.path.abspath(source)), _read_list(source, kind)
        places = [place_of(root, name) for name in names]
        photos = Photos(root, names, ["" if is_remote(place) else file_state(Path(place)) for place in places])
    elif here:
        if not (folder := Path(source)).is_dir():
            raise CrackutilsError(f"{folder} is not a folder. Give one that holds images, or a list of them.")
        files, left_out = find_pictures(folder, None if is_remote(own) else Path(own))
        print_left_out(left_out)
        names = [file.relative_to(folder).as_posix() for file in files]
        photos = Photos(str(folder.resolve()), names, [file_state(file) for file in files])
    else:
        photos = _list_address(source)
    if not photos.names:
        raise CrackutilsError(f"{source} holds no pictures. Give a folder or a list that holds some.")
    return photos


def place_of(root: str, name: str) -> str:
    """Return the path or address of a file."""
    return name if is_remote(name) or os.path.isabs(name) else f"{root.rstrip('/')}/{name}"


def _read_list(source: str, kind: str) -> list[str]:
    files, path = open_place(source)
    try:
        if kind == ".txt":
            lines = files.cat_file(path).decode("utf-8-sig", "surrogateescape").splitlines()
            return [line.strip() for line in lines if line.strip()]
        import pyarrow.parquet

        schema = pyarrow.parquet.ParquetDataset(path, filesystem=files).schema
        names = {name.lower(): name for name in schema.names}
        if not (column := next((names[name] for name in _COLUMNS if name in names), "")):
            has = f"{source} has no column {' or '.join(_COLUMNS)} (but {name_some(schema.names)})"
            raise CrackutilsError(f"{has}. Rename the one with the paths or addresses.")
        return pyarrow.parquet.read_table(path, columns=[column], filesystem=files)[column].to_pylist()
    except (OSError, ValueError) as error:
        why = f"{source} cannot be read ({' '.join(str(error).split())[:200]})"
        raise CrackutilsError(f"{why}. Give a list of files, or a folder.") from error


def _list_address(source: str) -> Photos:
    files, root = open_place(source)
    try:
        found = files.find(root, detail=True)
    except OSError as error:
        why = f"{source} cannot be listed ({error})"
        raise CrackutilsError(f"{why}. Give a folder at an address, or a list.") from error
    entries, left_out = {}, {}
    for path, entry in found.items():
        name = PurePosixPath(path).relative_to(root.rstrip("/")).as_posix() if path != root else ""
        parts = name.lower().split("/")
        if any(part in SYSTEM for part in parts):
            left_out.setdefault("system files", []).append(name)
        elif any(part.startswith(".") for part in parts):
            left_out.setdefault("hidden", []).append(name)
        elif PurePosixPath(name).suffix.lower() in (*FORMATS, *RAW):
            changed = next((entry[key] for key in ("ETag", "etag", "LastModified", "mtime") if entry.get(key)), "")
            entries[name] = f"{entry.get('size')} {changed}"
        else:
            left_out.setdefault("not a picture by name", []).append(name)
    print_left_out(left_out)
    # files before folders, as on disk
    names = sorted(entries, key=lambda name: [(1, part) for part in name.split("/")[:-1]] + [(0, name)])
    return Photos(source.rstrip("/"), names, [entries[name] for name in names])


def cut_blocks(photos: Photos, key: str) -> list[Block]:
    """Return the files in blocks; each has a key that is the same only for the same files, states and model."""
    blocks = []
    for number, begin in enumerate(range(0, len(photos.names), BLOCK)):
        names, states = (part[begin : begin + BLOCK] for part in (photos.names, photos.states))
        made_of = json.dumps([key, photos.root, number, names, states])
        places = [(name, place_of(photos.root, name)) for name in names]
        blocks.append(Block(number, hashlib.sha256(made_of.encode()).hexdigest()[:16], places))
    return blocks


def read_place(place: str) -> Path | bytes:
    """Return what `decode_image` takes: the path of a file on disk, or the bytes of one at an address.

    Raises `ImageError` for a file that is not there or may not be read, and CrackutilsError for a network that fails.
    """
    if not is_remote(place) or PurePosixPath(place).suffix.lower() in RAW:  # those are refused by their names
        return Path(place)
    files, path = open_place(place)
    try:
        return files.cat_file(path)
    except FileNotFoundError as error:
        raise ImageError("does not exist") from error
    except Exception as error:  # each kind of address has errors of its own
        if isinstance(error, PermissionError) or getattr(error, "status", 0) in (401, 403):
            raise ImageError("may not be read") from error
        why = f"{place} cannot be read ({' '.join(str(error).split())[:200] or type(error).__name__})"
        remedy = "Look after the network, then run the same command again; it continues."
        raise CrackutilsError(f"{why}. {remedy}") from error
