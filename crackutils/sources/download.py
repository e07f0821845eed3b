"""Download of a published archive, with resume and a check of its hash."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import requests
from tqdm import tqdm

from crackutils import config, files
from crackutils.userfiles.entries import ZIP_ERRORS

_USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) crackutils"  # the data's host refuses the defaults of libraries


class _Refused(Exception):
    """An address did not deliver."""


def download(source: str, entry: dict[str, Any]) -> Path:
    """Download a source with resume, trying the addresses of its entry in `data/sources.toml`; return the archive.

    Raises CrackutilsError if no address delivers the published file.
    """
    folder, complaints = config.data_dir() / "downloads", []
    folder.mkdir(parents=True, exist_ok=True)
    for address in entry["addresses"]:
        file = folder / address["save_as"]
        part = file.with_name(f"{file.name}.part")
        try:
            if file.is_file():
                _check(file, entry["sha256"], "the cached file had a wrong SHA-256, so it was removed")
            else:
                _get(address["url"], part, entry["size"] if file.suffix == ".rar" else None)  # as published
                _check(part, entry["sha256"], "wrong SHA-256, so it was removed")
                os.replace(part, file)
            return file
        except _Refused as error:
            complaints.append(f"{file.name}: {error}")
    remedy = f"download {entry['file']} with a browser from {entry['page']} and run: make data FROM=<that file>."
    raise config.CrackutilsError(f"{source} could not be downloaded ({'; '.join(complaints)}). Try again, or {remedy}")


def _check(file: Path, sha256: str, complaint: str) -> None:
    """Remove and refuse a file, unless it, or the only RAR in a ZIP, has this SHA-256."""
    if files.sha256(file) == sha256:
        return
    with contextlib.suppress(*ZIP_ERRORS), zipfile.ZipFile(file) as z:
        inner = [e for e in z.infolist() if e.filename.lower().endswith(".rar")]
        if len(inner) == 1 and hashlib.file_digest(z.open(inner[0]), "sha256").hexdigest() == sha256:
            return
    file.unlink()
    raise _Refused(complaint)


def _get(url: str, part: Path, size: int | None) -> None:
    """Download `url` to `part`, continuing at its end; with requests, then with curl, which some hosts accept."""
    if (have := part.stat().st_size if part.exists() else 0) == size:
        return
    headers = {"User-Agent": _USER_AGENT} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
            if answer.status_code == 416:  # nothing is missing
                return
            answer.raise_for_status()
            have = have if answer.status_code == 206 else 0
            total = have + int(answer.headers.get("Content-Length", 0)) or None
            bar = tqdm(total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, ncols=90)
            with bar, open(part, "ab" if have else "wb") as out:
                for chunk in answer.iter_content(1 << 20):
                    out.write(chunk)
                    bar.update(len(chunk))
        if total and part.stat().st_size < total:
            raise _Refused("the connection broke; the next try continues")
    except requests.RequestException as error:
        status = getattr(error.response, "status_code", None)
        what = f"the server answered {status}" if status else f"no connection ({type(error).__name__})"
        command = ["curl", "-L", "--fail", "--silent", "-C", "-", "-A", _USER_AGENT, "-o", str(part), url]
        command += ["--connect-timeout", "60", "--speed-limit", "1", "--speed-time", "60"]  # else it may wait forever
        if not shutil.which("curl") or subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode:
            raise _Refused(what) from error
