"""Fetch, unpack, decode and index images.

`read_image` is the only decoder of the project: indexing, training and scoring all see the same pixels.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from crackutils import config
from crackutils.files import progress, sha256


def unpack(origin: Path, work: Path, entry: dict[str, Any]) -> None:
    import rarfile

    if origin.is_dir():
        _copy_folder(origin, work)
        return
    if zipfile.is_zipfile(origin):
        _unzip(origin, work)
        inner = [p for p in work.rglob("*.rar") if p.is_file()]
        if len(inner) == 1 and not any(
            work.rglob(config.CLASSES[0])
        ):  # the data's page also hands out a ZIP around the RAR
            rar = inner[0].rename(work / inner[0].name)
            unpack(rar, work, entry)
            rar.unlink()
    elif rarfile.is_rarfile(origin):
        if "sha256" in entry and sha256(origin) != entry["sha256"]:
            print(f"note: {origin.name} is not the published {entry['file']} (its SHA-256 differs).")
        _unrar(origin, work)
    else:
        raise config.CrackutilsError(
            f"{origin} is neither a whole ZIP nor a RAR nor a folder; it may be cut short: download or copy it again."
        )


def _copy_folder(origin: Path, work: Path) -> None:
    holder = [
        p for p in (origin, *sorted(d for d in origin.rglob("*") if d.is_dir())) if (p / config.CLASSES[0]).is_dir()
    ]
    holder = [p for p in holder if (p / config.CLASSES[1]).is_dir()]
    if len(holder) != 1:
        class_folders(origin, origin)
    for name in config.CLASSES:
        (work / name).mkdir()
        files = [p for p in sorted((holder[0] / name).iterdir()) if p.is_file()]
        for file in progress(files, f"copying {name}", unit="file"):
            shutil.copyfile(file, work / name / file.name)


def _refuse_unsafe(name: str, is_link: bool, archive: Path) -> None:
    windows = PureWindowsPath(name)
    outside = windows.drive or windows.root or ".." in windows.parts or PurePosixPath(name).is_absolute()
    if is_link or outside:
        what = "is a link" if is_link else "leads outside the folder"
        raise config.CrackutilsError(f"{archive.name} is refused: its entry {name!r} {what}; nothing was unpacked.")


def _unzip(archive: Path, work: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as z:
            entries = z.infolist()
            for e in entries:
                _refuse_unsafe(e.filename, stat.S_ISLNK(e.external_attr >> 16), archive)
            _refuse_too_large(sum(e.file_size for e in entries), work, archive)
            for e in progress(entries, f"unpacking {archive.name}", unit="file"):
                z.extract(e, work)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise config.CrackutilsError(
            f"{archive} is damaged or encrypted ({error}); download or copy it again."
        ) from error


def _refuse_too_large(size: int, work: Path, archive: Path) -> None:
    free = shutil.disk_usage(work).free
    if size > free:
        raise config.CrackutilsError(
            f"{archive.name} unpacks to {size / 1e9:.1f} GB, {config.display_path(work.parent)} has {free / 1e9:.1f} GB free."
        )


def _rar_commands(archive: Path, work: Path) -> list[list[str]]:
    """Return the unpacking commands that this machine has, best first."""
    commands = [
        ["unrar", "x", "-idq", "-o+", "-p-", str(archive), f"{work}{os.sep}"],
        ["bsdtar", "-xf", str(archive), "-C", str(work)],
        ["tar", "-xf", str(archive), "-C", str(work)],
        ["unar", "-q", "-D", "-f", "-o", str(work), str(archive)],
        ["7zz", "x", "-y", "-bd", f"-o{work}", str(archive)],
        ["7z", "x", "-y", "-bd", f"-o{work}", str(archive)],
    ]
    found = [c for c in commands if shutil.which(c[0])]
    # macOS and Windows call bsdtar "tar"; GNU tar cannot read RAR
    return [
        c
        for c in found
        if c[0] != "tar" or b"bsdtar" in subprocess.run(["tar", "--version"], capture_output=True).stdout
    ]


def _unrar(archive: Path, work: Path) -> None:
    import rarfile

    try:
        with rarfile.RarFile(archive) as r:  # reading the list needs no program
            entries = r.infolist()
            if r.needs_password():
                raise config.CrackutilsError(
                    f"{archive} is encrypted; unpack it yourself and give the folder as FROM=."
                )
    except rarfile.Error as error:
        raise config.CrackutilsError(f"{archive} is damaged ({error}); download or copy it again.") from error
    for e in entries:
        _refuse_unsafe(e.filename, e.is_symlink() or bool(e.file_redir), archive)
    _refuse_too_large(sum(e.file_size for e in entries), work, archive)
    commands, complaints = _rar_commands(archive, work), []
    files = sum(e.is_file() for e in entries)
    for command in commands:
        if _run_with_progress(command, work, files, archive, complaints):
            break
    else:
        done = _unrar_with_libarchive(archive, work)
        if complaints and not done:
            raise config.CrackutilsError(
                f"{archive} could not be unpacked ({'; '.join(complaints)}); download or copy it again."
            )
        if not done:
            raise config.CrackutilsError(
                f"No program here unpacks {archive.name}: install one of unrar, bsdtar (Debian: libarchive-tools),"
                " unar or 7-Zip, or unpack it elsewhere and give the folder as FROM=."
            )
    for path in work.rglob("*"):
        if path.is_symlink():
            raise config.CrackutilsError(f"{archive.name} is refused: it unpacked a link, {path.name!r}.")
    for e in entries:  # programs built on libarchive do not look at all checksums
        path = work / e.filename
        if e.CRC is not None and path.is_file() and zlib.crc32(path.read_bytes()) != e.CRC:
            raise config.CrackutilsError(f"{archive} is damaged (checksum of {e.filename}); download or copy it again.")


def _run_with_progress(command: list[str], work: Path, files: int, archive: Path, complaints: list[str]) -> bool:
    """Run an unpacker while counting its files; return whether it unpacked them all, else add to `complaints`."""
    from tqdm import tqdm

    # errors go to a file: a pipe would fill up and block, as unpackers may complain of each file
    with tempfile.TemporaryFile() as errors, contextlib.ExitStack() as stack:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, stdin=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        done = 0
        with tqdm(total=files, desc=f"unpacking {archive.name} ({command[0]})", unit="file", ncols=90) as bar:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
                count = sum(1 for p in work.rglob("*") if p.is_file() and p != archive)
                bar.update(count - done)
                done = count
                if process.returncode is not None:
                    break
        errors.seek(0)
        message = errors.read().decode(errors="replace").strip().splitlines()
    if process.returncode == 0 and done >= files:
        return True
    complaints.append(f"{command[0]}: {message[-1] if message else f'{done} of {files} files'}")
    for path in work.iterdir():  # the next program starts from nothing
        if path != archive:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return False


def _unrar_with_libarchive(archive: Path, work: Path) -> bool:
    """Unpack with the optional libarchive-c; return False where it, or the system's library, is missing."""
    try:
        import libarchive
    except (ImportError, OSError, TypeError, AttributeError):
        return False
    here = Path.cwd()
    try:
        os.chdir(work)  # its extraction writes into the working folder
        flags = libarchive.extract.SECURE_NODOTDOT | libarchive.extract.SECURE_SYMLINKS
        libarchive.extract_file(str(archive.resolve() if archive.is_absolute() else here / archive), flags)
    except libarchive.ArchiveError:
        return False
    finally:
        os.chdir(here)
    return True


def class_folders(work: Path, origin: Path) -> Path:
    """Return the one folder below `work` that holds a folder per class."""
    found = [
        p.parent
        for p in sorted(work.rglob(config.CLASSES[0]))
        if (p.parent / config.CLASSES[1]).is_dir() and p.is_dir()
    ]
    found = [p for p in found if "__MACOSX" not in p.relative_to(work).parts]  # macOS adds a shadow of every folder
    if len(found) != 1:
        what = "holds no folder" if not found else "holds several folders"
        raise config.CrackutilsError(
            f"{origin} {what} with {config.CLASSES[0]}/ and {config.CLASSES[1]}/ in it; it must hold exactly one."
        )
    return found[0]
