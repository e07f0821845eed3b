"""Unpacking of archives; entries that lead outside, and archives larger than the disk, are refused."""

import errno
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, run
from typing import IO, Any, NamedTuple

import rarfile

from crackutils.config import CrackutilsError
from crackutils.files import progress, sha256
from crackutils.images import FORMATS
from crackutils.userfiles.entries import ZIP_ERRORS, Names, check_space, refuse_entry

_BSDTAR = "tar" if os.name == "nt" else "bsdtar"  # Windows calls its bsdtar tar
# Programs that print the files of an archive one after another, best first. `RarFile.extractall` would start one of
# them for each compressed file, half an hour for METU, and its call of bsdtar fails.
_PRINTERS = {
    "unrar": ("p", "-inul", "-p-"),
    _BSDTAR: ("-xOf",),
    "unar": ("-q", "-o", "-"),
    "7zz": ("x", "-so"),
    "7z": ("x", "-so"),
}
_SEVEN = ("7zz", "7z", "7za")
_MAGIC = {b"PK\x03\x04": "ZIP", b"PK\x05\x06": "ZIP", b"PK\x07\x08": "ZIP", b"Rar!\x1a\x07": "RAR"}
_MAGIC |= {b"7z\xbc\xaf\x27\x1c": "7z", b"\x1f\x8b": "tar", b"BZh": "tar", b"\xfd7zXZ\0": "tar", b"\x5d\0\0": "tar"}
_MAGIC |= {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"LZIP": "lzip", b"\x1f\x9d": "compress"}
_MAGIC |= {b"MSCF": "CAB", b"xar!": "xar"}
_PAGE = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml|\{)", re.IGNORECASE)
_LATER = re.compile(r"\.(z\d\d|r\d\d|(zip|7z|rar|tar)\.(?!0*1$)\d{2,4}|part(?!0*1\.)\d+\.rar)$", re.IGNORECASE)
_FIRST = re.compile(r"\.(zip|7z|rar|tar)\.0*1$", re.IGNORECASE)
_TAR_ERRORS = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # errors of a full or read-only disk
_AGAIN = "Download or copy it again"


class _Entry(NamedTuple):
    filename: str
    file_size: int  # bytes
    CRC: int | None
    is_link: bool = False


class _Place:
    """An empty folder for the files of an archive, under clean names."""

    def __init__(self, work: Path) -> None:
        self.work, self.names = work, Names()

    def create(self, name: str) -> IO[bytes]:
        path = self.work / self.names.give(name.replace("\\", "/"))  # as some programs on Windows write it
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "wb")

    def clear(self) -> None:
        shutil.rmtree(self.work)
        self.work.mkdir()
        self.names = Names()


def name_kind(file: Path) -> str:
    """Return the type of an archive by its first bytes; empty for other files and later parts of a split archive."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(512)
    except OSError:
        return ""
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
    return "" if _LATER.search(file.name) else "tar" if head[257:262] == b"ustar" else kind


def unpack(archive: Path, work: Path, entry: dict[str, Any]) -> list[str]:
    """Put the files of an archive into `work` under clean names; return the renamed ones.

    `entry` is an entry of `data/sources.toml`. Raises CrackutilsError if the file is not an archive, is damaged,
    encrypted, unsafe or larger than the disk, or no program unpacks it, and OSError if the disk is full.
    """
    if _LATER.search(archive.name):
        remedy = "Give the first part, with the others beside it."
        raise CrackutilsError(f"{archive} is a later part of a split archive. {remedy}")
    kind, place = name_kind(archive), _Place(work)
    split = _FIRST.search(archive.name) or archive.with_suffix(".z01").exists()
    if split or kind == "7z":
        _unpack_with_programs(archive, place, "a part of a split archive" if split else "a 7z archive")
    elif kind == "ZIP" or (not kind and zipfile.is_zipfile(archive)):
        _unzip(archive, place)
    elif kind == "RAR" or (not kind and rarfile.is_rarfile(archive)):
        _unrar(archive, place, entry)
    elif kind == "tar":
        _untar(archive, place)
    elif kind:
        _unpack_with_programs(archive, place, f"a {kind} archive")
    else:
        raise CrackutilsError(_explain_other(archive))
    return place.names.renamed


def _explain_other(file: Path) -> str:
    with open(file, "rb") as opened:
        head = opened.read(512)
    if _PAGE.match(head):
        return f"{file} is a web page or a server's message, not an archive. Download the file itself."
    if file.suffix.lower() in FORMATS:
        return f"{file} is a picture. Give the folder that holds the two class folders."
    what = "has zero bytes" if not head else "is neither a folder nor a whole archive (ZIP, RAR, 7z, tar)"
    return f"{file} {what}. It may be cut short: download or copy it again."


def _encrypted(archive: Path) -> CrackutilsError:
    return CrackutilsError(f"{archive} is encrypted. Unpack it yourself and give the folder as FROM=.")


def _check(archive: Path, work: Path, entries: Iterable[Any], is_link: Callable[[Any], bool]) -> None:
    """Refuse entries (of `zipfile`, `rarfile` or ours) that are links or lead outside, or do not fit on the disk."""
    for e in entries:
        refuse_entry(archive, e.filename, is_link(e))
    check_space(archive.name, sum(e.file_size for e in entries), work)


def _unzip(archive: Path, place: _Place) -> None:
    try:
        with zipfile.ZipFile(archive) as z:
            entries = z.infolist()
            _check(archive, place.work, entries, lambda e: stat.S_ISLNK(e.external_attr >> 16))
            files = [e for e in entries if not e.filename.endswith(("/", "\\"))]
            for e in files:
                e.filename = _decode_name(e)
            if any(e.flag_bits & 1 for e in files):
                raise _encrypted(archive)
            known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            if other := {e.compress_type for e in files}.difference(known):
                how = zipfile.compressor_names.get(other.pop(), "unusual")
                _print_with_programs(archive, place, files, f"a ZIP with {how} compression", skip="unrar")
                return
            for e in progress(files, f"unpacking {archive.name}", unit="file"):
                with z.open(e) as source, place.create(e.filename) as out:
                    shutil.copyfileobj(source, out, 1 << 20)
    except ZIP_ERRORS as error:
        raise CrackutilsError(f"{archive} is damaged or cut short ({error}). {_AGAIN}.") from error


def _decode_name(entry: zipfile.ZipInfo) -> str:
    """Return the name of an entry; macOS writes UTF-8 without the flag."""
    try:
        return entry.filename if entry.flag_bits & 0x800 else entry.filename.encode("cp437").decode()
    except UnicodeError:
        return entry.filename


def _unrar(archive: Path, place: _Place, source: dict[str, Any]) -> None:
    if "sha256" in source and sha256(archive) != source["sha256"]:
        print(f"note: {archive.name} is not the published {source['file']} (its SHA-256 differs).")
    try:
        with rarfile.RarFile(archive) as r:  # the list can be read without a program
            entries, encrypted = r.infolist(), r.needs_password()
    except rarfile.NeedFirstVolume as error:
        raise CrackutilsError(f"{archive} is a later part of a split archive. Give the first part.") from error
    except OSError:
        raise
    except Exception as error:  # it raises other errors than rarfile.Error
        raise CrackutilsError(f"{archive} is damaged or cut short ({error}). {_AGAIN}.") from error
    if encrypted:
        raise _encrypted(archive)
    _check(archive, place.work, entries, lambda e: e.is_symlink() or bool(e.file_redir))
    _print_with_programs(archive, place, [e for e in entries if e.is_file()], "a RAR archive")


def _untar(archive: Path, place: _Place) -> None:
    try:
        with tarfile.open(archive) as tar:
            _write_members(archive, tar, place)
    except _TAR_ERRORS as error:
        _raise_full(error)
        why = str(error).split("\n")[0].rstrip(":")
        raise CrackutilsError(f"{archive} is not a tar archive, or damaged or cut short ({why}). {_AGAIN}.") from error


def _write_members(archive: Path, tar: tarfile.TarFile, place: _Place) -> None:
    """Write the files of a tar archive one after another; check the space for each."""
    for member in progress(tar, f"unpacking {archive.name}", unit="file"):
        refuse_entry(archive, member.name, not (member.isfile() or member.isdir()))
        check_space(archive.name, member.size, place.work)
        if member.isfile():
            with place.create(member.name) as out:
                shutil.copyfileobj(tar.extractfile(member), out, 1 << 20)


def _raise_full(error: Exception) -> None:
    """Raise an error of a full disk again: another program or copy would not help."""
    if isinstance(error, OSError) and error.errno in FULL:
        raise error


def _try_programs(
    archive: Path, place: _Place, what: str, attempts: dict[str, Callable[[str], None]], install: str
) -> None:
    """Unpack with the first installed program that succeeds; CrackutilsError if there is none, or all fail."""
    complaints, here = [], list(filter(shutil.which, attempts))
    for program in here:
        try:
            attempts[program](program)
            return
        except (OSError, ValueError, EOFError, tarfile.TarError, zlib.error) as error:
            _raise_full(error)
            place.clear()
            complaints.append(f"{program}: {error}")
    install = "7-Zip" if here else install  # it reads most types
    remedy = f"Install {install}, or unpack it elsewhere and give the folder as FROM=."
    if complaints:
        remedy = f"{_AGAIN}." if {"unrar", *_SEVEN}.intersection(here) else remedy
        raise CrackutilsError(f"{archive}, {what}, could not be unpacked ({'; '.join(complaints)}). {remedy}")
    raise CrackutilsError(f"No installed program unpacks {archive.name}, {what}. {remedy}")


def _print_with_programs(archive: Path, place: _Place, files: list[Any], what: str, skip: str = "") -> None:
    """Let a program print all files of an archive whose list is known and checked."""
    attempts = {name: partial(_print_files, archive, place, files) for name in _PRINTERS if name != skip}
    _try_programs(archive, place, what, attempts, "unrar, bsdtar (Debian: libarchive-tools), unar or 7-Zip")


def _unpack_with_programs(archive: Path, place: _Place, what: str) -> None:
    """Unpack an archive whose list Python cannot read, with 7-Zip, or with bsdtar through a tar archive."""
    attempts = {name: partial(_print_listed, archive, place) for name in _SEVEN}
    attempts[_BSDTAR] = partial(_convert, archive, place)
    _try_programs(archive, place, what, attempts, "7-Zip or bsdtar (Debian: 7zip, libarchive-tools)")


def _print_listed(archive: Path, place: _Place, program: str) -> None:
    """Unpack with 7-Zip, in the order of its own list."""
    command = [program, "l", "-slt", "-ba", "-p", "-sccUTF-8", archive.resolve()]
    found = run(command, stdin=DEVNULL, capture_output=True, check=False)
    listed = found.stdout.decode("utf-8", "replace")
    if "Encrypted = +" in listed or b"ncrypted" in found.stderr:
        raise _encrypted(archive)
    if found.returncode:
        raise ValueError(" ".join(found.stderr.decode("utf-8", "replace").split())[:200] or f"exit {found.returncode}")
    entries = []
    for block in listed.replace("\r", "").split("\n\n"):
        fields = dict(line.split(" = ", 1) for line in block.split("\n") if " = " in line)
        if "Path" not in fields or fields.get("Folder") == "+" or fields.get("Attributes", "").startswith("D"):
            continue
        link = bool(fields.get("Symbolic Link") or fields.get("Hard Link")) or " l" in fields.get("Attributes", "")
        checksum = int(fields["CRC"], 16) if fields.get("CRC") else None
        entries.append(_Entry(fields["Path"], int(fields.get("Size") or 0), checksum, link))
    _check(archive, place.work, entries, lambda e: e.is_link)
    _print_files(archive, place, entries, program)


def _convert(archive: Path, place: _Place, program: str) -> None:
    with _printing([program, "-cf", "-", "--format", "pax", f"@{archive.resolve()}"], archive) as output:
        with tarfile.open(fileobj=output, mode="r|") as tar:
            _write_members(archive, tar, place)
        while output.read(1 << 16):  # padding of the last block
            pass


def _print_files(archive: Path, place: _Place, entries: list[Any], program: str) -> None:
    """Let a program print all files, and write them; ValueError if they differ from the list."""
    with _printing([program, *_PRINTERS.get(program, ("x", "-so")), archive.resolve()], archive) as output:
        for e in progress(entries, f"unpacking {archive.name} ({program})", unit="file"):
            left, checksum = e.file_size, 0
            with place.create(e.filename) as out:
                while left and (chunk := output.read(min(left, 1 << 20))):
                    out.write(chunk)
                    left, checksum = left - len(chunk), zlib.crc32(chunk, checksum)
            if left or e.CRC not in (None, checksum):
                raise ValueError(f"{e.filename} is damaged")
        if output.read(1):
            raise ValueError("prints more than in the list")


@contextmanager
def _printing(command: list[Any], archive: Path) -> Iterator[IO[bytes]]:
    """Start a program and yield its output; ValueError if it fails, CrackutilsError if a password is missing.

    It starts in an empty folder, because unrar-free unpacks into the current one instead of printing.
    """
    known = os.environ | {"LC_ALL": "C.UTF-8"}  # without it, bsdtar cannot read some names
    with (
        tempfile.TemporaryDirectory() as nowhere,
        tempfile.TemporaryFile() as said,
        Popen(command, cwd=nowhere, env=known, stdin=DEVNULL, stdout=PIPE, stderr=said) as process,
    ):
        try:
            yield process.stdout
            if process.wait():
                raise ValueError(f"exit code {process.returncode}")
        except (ValueError, EOFError, tarfile.TarError):
            process.kill()
            process.wait()
            said.seek(0)
            if re.search(b"ncrypted|Crypto codec", said.read(1 << 20)):
                raise _encrypted(archive) from None
            raise
        finally:
            process.kill()
