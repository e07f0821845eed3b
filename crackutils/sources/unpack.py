"""Unpacking of ZIP, RAR and folders, which refuses whatever could write outside or fill the disk."""

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import rarfile

from crackutils.config import CLASSES, CrackutilsError
from crackutils.files import progress, sha256

# Programs that print the files of a RAR one after another, best first. `RarFile.extractall` would start one of them
# for each compressed file, half an hour for METU, and its call of bsdtar fails.
_PRINTERS = {
    "unrar": ("p", "-inul", "-p-"),
    "tar" if os.name == "nt" else "bsdtar": ("-xOf",),  # Windows calls its bsdtar tar
    "unar": ("-q", "-o", "-"),
    "7zz": ("x", "-so"),
    "7z": ("x", "-so"),
}
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)  # of a damaged ZIP


def unpack(origin: Path, work: Path, entry: dict[str, Any]) -> None:
    """Put the files of a RAR, a ZIP or a folder into `work`; `entry` is that of `data/sources.toml`.

    Raises CrackutilsError if an archive is damaged, encrypted, unsafe or larger than the disk, or nothing unpacks it.
    """
    if origin.is_dir():
        holder = find_class_folders(origin, origin)
        for name in CLASSES:
            (work / name).mkdir()
            files = sorted(filter(Path.is_file, (holder / name).iterdir()))
            for file in progress(files, f"copying {name}", unit="file"):
                shutil.copyfile(file, work / name / file.name)
    elif zipfile.is_zipfile(origin):
        _unzip(origin, work)
        inner = [p for p in work.rglob("*.rar") if p.is_file()]
        if len(inner) == 1 and not any(work.rglob(CLASSES[0])):  # the data's page also hands out a ZIP around the RAR
            rar = inner[0].rename(work / inner[0].name)
            _unrar(rar, work, entry)
            rar.unlink()
    elif rarfile.is_rarfile(origin):
        _unrar(origin, work, entry)
    else:
        remedy = "It may be cut short: download or copy it again."
        raise CrackutilsError(f"{origin} is neither a whole ZIP nor a RAR nor a folder. {remedy}")


def find_class_folders(work: Path, origin: Path) -> Path:
    """Return the one folder below `work` that holds a folder per class; `origin` is named if there is not one."""
    found = [p.parent for p in sorted(work.rglob(CLASSES[0])) if p.is_dir() and (p.parent / CLASSES[1]).is_dir()]
    found = [p for p in found if "__MACOSX" not in p.relative_to(work).parts]  # macOS adds a shadow of every folder
    if len(found) != 1:
        what = f"{'several folders' if found else 'no folder'} with {CLASSES[0]}/ and {CLASSES[1]}/ in it"
        raise CrackutilsError(f"{origin} holds {what}. It must hold exactly one.")
    return found[0]


def _check(archive: Path, work: Path, entries: list[Any], is_link: Callable[[Any], bool]) -> None:
    """Refuse entries (of `zipfile` or `rarfile`) that are links or lead outside, and more than the disk can hold."""
    for e in entries:
        windows = PureWindowsPath(e.filename)
        outside = windows.drive or windows.root or ".." in windows.parts or PurePosixPath(e.filename).is_absolute()
        if (link := is_link(e)) or outside:
            what = "is a link" if link else "leads outside the folder"
            raise CrackutilsError(f"{archive.name} is refused: its entry {e.filename!r} {what}. Nothing was unpacked.")
    size, free = sum(e.file_size for e in entries) / 1e9, shutil.disk_usage(work).free / 1e9
    if size > free:
        raise CrackutilsError(f"{archive.name} holds {size:.1f} GB, but the disk has {free:.1f} GB free. Make room.")


def _unzip(archive: Path, work: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as z:
            entries = z.infolist()
            _check(archive, work, entries, lambda e: stat.S_ISLNK(e.external_attr >> 16))
            for e in progress(entries, f"unpacking {archive.name}", unit="file"):
                z.extract(e, work)
    except ZIP_ERRORS as error:
        raise CrackutilsError(f"{archive} is damaged or encrypted ({error}). Download or copy it again.") from error


def _unrar(archive: Path, work: Path, source: dict[str, Any]) -> None:
    if "sha256" in source and sha256(archive) != source["sha256"]:
        print(f"note: {archive.name} is not the published {source['file']} (its SHA-256 differs).")
    try:
        with rarfile.RarFile(archive) as r:  # reading the list needs no program
            entries, encrypted = r.infolist(), r.needs_password()
    except Exception as error:  # its parsing raises more than rarfile.Error
        raise CrackutilsError(f"{archive} is damaged ({error}). Download or copy it again.") from error
    if encrypted:
        raise CrackutilsError(f"{archive} is encrypted. Unpack it yourself and give the folder as FROM=.")
    _check(archive, work, entries, lambda e: e.is_symlink() or bool(e.file_redir))
    complaints = []
    for program in filter(shutil.which, _PRINTERS):
        try:
            _print_files(program, archive, work, [e for e in entries if e.is_file()])
            return
        except (OSError, ValueError) as error:
            complaints.append(f"{program}: {error}")
    if complaints:
        raise CrackutilsError(f"{archive} could not be unpacked ({'; '.join(complaints)}). Download or copy it again.")
    remedy = "Install unrar, bsdtar (Debian: libarchive-tools), unar or 7-Zip, or unpack it elsewhere"
    raise CrackutilsError(f"No program here unpacks {archive.name}. {remedy} and give the folder as FROM=.")


def _print_files(program: str, archive: Path, work: Path, entries: list[rarfile.RarInfo]) -> None:
    """Have a program print all files of a RAR, and write them; ValueError if they are not as the list says."""
    command = [program, *_PRINTERS[program], archive.resolve()]
    with (
        tempfile.TemporaryDirectory() as nowhere,  # unrar-free unpacks into the current folder instead of printing
        Popen(command, cwd=nowhere, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL) as process,
    ):
        try:
            for e in progress(entries, f"unpacking {archive.name} ({program})", unit="file"):
                (work / e.filename).parent.mkdir(parents=True, exist_ok=True)
                left, checksum = e.file_size, 0
                with open(work / e.filename, "wb") as out:
                    while left and (chunk := process.stdout.read(min(left, 1 << 20))):
                        out.write(chunk)
                        left, checksum = left - len(chunk), zlib.crc32(chunk, checksum)
                if left or e.CRC not in (None, checksum):
                    raise ValueError(f"{e.filename} is damaged")
            if process.stdout.read(1):
                raise ValueError("prints more than the list says")
            if process.wait():
                raise ValueError(f"exit code {process.returncode}")
        finally:
            process.kill()
