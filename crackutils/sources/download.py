"""Fetch, unpack, decode and index images.

`read_image` is the only decoder of the project: indexing, training and scoring all see the same pixels.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import Any

from crackutils import config

_USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) crackutils"  # the default one of urllib is refused by the data's host


def download(source: str, entry: dict[str, Any]) -> Path:
    """Download a source with resume, trying its addresses in order; return the archive's path."""
    folder = config.data_dir() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    complaints = []
    for address in entry["addresses"]:
        file = folder / address["save_as"]
        plain = file.suffix == ".rar"  # only the RAR itself has a published size
        if not file.is_file():
            part = file.with_name(f"{file.name}.part")
            try:
                _get(address["url"], part, entry["size"] if plain else None)
            except _Refused as error:
                complaints.append(f"{address['save_as']}: {error}")
                continue
            if not _is_published(part, entry["sha256"]):
                part.unlink()
                complaints.append(f"{address['save_as']}: wrong SHA-256, so it was removed")
                continue
            os.replace(part, file)
        elif not _is_published(file, entry["sha256"]):
            file.unlink()
            complaints.append(f"{address['save_as']}: the file kept from before had a wrong SHA-256 and was removed")
            continue
        return file
    raise config.CrackutilsError(
        f"{source} could not be downloaded ({'; '.join(complaints)}). Try again, or download {entry['file']} with a"
        f" browser from {entry['page']} and run: make data FROM=<that file>."
    )


def _is_published(file: Path, sha256: str) -> bool:
    """Whether a file, or the one RAR inside a ZIP, has this SHA-256."""
    if sha256(file) == sha256:
        return True
    try:
        with zipfile.ZipFile(file) as z:
            inner = [e for e in z.infolist() if e.filename.lower().endswith(".rar")]
            if len(inner) != 1:
                return False
            with z.open(inner[0]) as f:
                return hashlib.file_digest(f, "sha256").hexdigest() == sha256
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return False


class _Refused(Exception):
    """An address did not deliver."""


def _get(url: str, part: Path, size: int | None) -> None:
    """Download `url` to `part`, going on where `part` ends; requests first, then curl, which some hosts let pass."""
    import requests
    from tqdm import tqdm

    try:
        have = part.stat().st_size if part.exists() else 0
        if size is not None and have == size:
            return
        headers = {"User-Agent": _USER_AGENT} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
            if answer.status_code == 416:  # nothing after what we have
                return
            answer.raise_for_status()
            have = have if answer.status_code == 206 else 0
            total = have + int(answer.headers.get("Content-Length", 0)) or None
            with (
                open(part, "ab" if have else "wb") as out,
                tqdm(total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, ncols=90) as bar,
            ):
                for chunk in answer.iter_content(1 << 20):
                    out.write(chunk)
                    bar.update(len(chunk))
        if total and part.stat().st_size < total:
            raise _Refused("the connection broke; the next try goes on where it stopped")
    except requests.RequestException as error:
        if not shutil.which("curl"):
            raise _Refused(_short(error)) from error
        command = ["curl", "-L", "--fail", "--silent", "-C", "-", "-A", _USER_AGENT, "-o", str(part), url]
        command += ["--connect-timeout", "60", "--speed-limit", "1", "--speed-time", "60"]  # else it may wait for ever
        if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode:
            raise _Refused(_short(error)) from error


def _short(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"the server answered {status}" if status else f"no connection ({type(error).__name__})"
