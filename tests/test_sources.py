"""Fetching: from folders and archives, by download, drawn; nothing unsafe, nothing lost. And files.py, which helps."""

import contextlib
import hashlib
import http.server
import io
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from crackutils import config, datasets
from crackutils.config import CLASSES, CrackutilsError
from crackutils.files import hash_sources, lock_file, sha256
from crackutils.sources.download import download
from crackutils.sources.fetch import fetch, prepare

UNPACKERS = ("unrar", "bsdtar", "unar", "7zz", "7z")
Tree = Callable[..., Path]
Publish = Callable[..., dict[str, Any]]


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder but hidden ones, as the record and the lock."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name[0] != ".")
    return {p.relative_to(folder).as_posix(): sha256(p) for p in files}


def zipped(file: Path, folder: Path, inside: str = "", how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", how) as z:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            z.write(path, inside + path.relative_to(folder).as_posix())
    return file


def vint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + vint(value >> 7)


def rar(file: Path, entries: dict[str, bytes], extra: bytes = b"") -> Path:
    """Write a RAR 5 archive of stored entries, as no free program does; `extra` is a record of the last entry."""

    def block(*fields: bytes, data: bytes = b"") -> bytes:
        header = b"".join(fields)
        header = vint(len(header)) + header
        return struct.pack("<I", zlib.crc32(header)) + header + data

    out = [b"Rar!\x1a\x07\x01\x00", block(vint(1), vint(0), vint(0))]
    for name, data in entries.items():
        more = vint(len(extra)) + extra if extra and name == list(entries)[-1] else b""
        flags = [vint(3), vint(len(more))] if more else [vint(2)]
        sizes = [vint(len(data)), vint(4), vint(len(data)), vint(0o100644), struct.pack("<I", zlib.crc32(data))]
        fields = [vint(2), *flags, *sizes, vint(0), vint(1), vint(len(name.encode())), name.encode(), more]
        out.append(block(*fields, data=data))
    file.write_bytes(b"".join(out) + block(vint(5), vint(0), vint(0)))
    return file


def rar_of(file: Path, folder: Path) -> Path:
    return rar(file, {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()})


def find_unpacker(tool: str) -> str | None:
    program = shutil.which(tool)
    if program and b"unrar-free" in subprocess.run([program], capture_output=True).stdout:
        return None  # it unpacks, but prints no files
    return program


def wrapped(file: Path, rar: Path, name: str) -> Path:
    """Write a ZIP around a RAR."""
    with zipfile.ZipFile(file, "w") as z:
        z.write(rar, name)
    return file


def refused(origin: Path | None, match: str) -> None:
    with pytest.raises(CrackutilsError, match=match):
        fetch("own" if origin else "metu", origin)


@pytest.fixture(autouse=True)
def tidy(data_dir: Path) -> Iterator[None]:
    """No temporary file or folder is left behind."""
    yield
    found = [p for p in data_dir.rglob("*") if p.name.startswith(".") or p.suffix == ".part"]
    assert [p for p in found if p.name != ".fetched.json"] == []


@pytest.fixture
def mine(tmp_path: Path, tree: Tree) -> Path:
    """A folder of the user with three images of each class."""
    return tree(tmp_path / "mine" / "deep", 3)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the only one that programs are looked for in."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def write_program(file: Path, script: str) -> None:
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


@pytest.fixture
def earlier(data_dir: Path, tmp_path: Path, tree: Tree) -> Iterator[None]:
    """Have a good copy of `own` before a call that fails; afterwards it is untouched and nothing else is there."""
    target = fetch("own", tree(tmp_path / "earlier", 2))
    before = contents(data_dir), {p: p.stat().st_mtime_ns for p in target.rglob("*.jpg")}
    yield
    assert (contents(data_dir), {p: p.stat().st_mtime_ns for p in target.rglob("*.jpg")}) == before
    assert {p.name for p in tmp_path.iterdir()} <= {"data", "earlier", "bad", "bad.zip", "bad.rar", "bin"}


def test_fetch_from_a_folder_leaves_it_as_it_was(data_dir: Path, tmp_path: Path, mine: Path, tree: Tree) -> None:
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    before = contents(tmp_path / "mine")
    target = fetch("own", tmp_path / "mine")
    assert target == data_dir / "raw" / "own"
    assert contents(tmp_path / "mine") == before and contents(target) == contents(mine)
    assert all(file.stat().st_nlink == 1 for file in target.rglob("*.jpg"))  # copies: the user's stay as they are
    fetch("own", tree(tmp_path / "b", 2))
    assert contents(target) == contents(tmp_path / "b")  # takes the place of what was there


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("inside", ["", "Concrete Crack Images/"])
def test_fetch_from_a_zip(tmp_path: Path, mine: Path, inside: str, how: int) -> None:
    archive = zipped(tmp_path / "a.zip", mine, inside, how)
    with zipfile.ZipFile(archive, "a") as z:
        z.writestr(f"{inside}Readme.txt", "about")
        for name in CLASSES:
            z.writestr(f"__MACOSX/{name}/._00001.jpg", "what macOS adds")
    sha = sha256(archive)
    target = fetch("own", archive)
    assert contents(target) == contents(mine)
    assert sorted(p.name for p in target.iterdir()) == [".fetched.json", "Negative", "Positive"]
    assert sha256(archive) == sha


@pytest.mark.parametrize("tool", UNPACKERS)
def test_each_unpacker_does(tool: str, tmp_path: Path, mine: Path, request: Any, capsys: Any) -> None:
    if not (program := find_unpacker(tool)):
        pytest.skip(f"{tool} is not installed here")
    (request.getfixturevalue("programs") / tool).symlink_to(program)
    origin = rar_of(tmp_path / "a.rar", mine)
    for file in (origin, wrapped(tmp_path / "a.zip", origin, "some folder/Concrete Crack Images.rar")):
        target = fetch("metu", file)
        assert contents(target) == contents(mine)
        shutil.rmtree(target)
        assert "is not the published Concrete Crack Images for Classification.rar" in capsys.readouterr().out


FAILURES = {
    'while [ "${i:=0}" -lt 9000 ]; do echo damaged file $i >&2; i=$((i+1)); done; exit 3': "1.jpg is damaged",
    "printf onetwo; exit 3": "exit code 3",
    "printf onetwothree": "prints more than in the list",
    "printf onetwx": "2.jpg is damaged",  # wrong checksum
}
COMPLAINTS = {s: rf"RAR archive, could not be unpacked \(7z: .*{c}\)\. Download" for s, c in FAILURES.items()}
COMPLAINTS[""] = r"^No installed program unpacks bad\.rar, a RAR archive\. Install unrar, bsdtar .*FROM=\.$"


@pytest.mark.skipif(os.name == "nt", reason="the program is a shell script")
@pytest.mark.parametrize(("script", "complaint"), COMPLAINTS.items())
@pytest.mark.usefixtures("earlier")
def test_a_program_that_fails_or_lacks_is_named(script: str, complaint: str, tmp_path: Path, programs: Path) -> None:
    bad = rar(tmp_path / "bad.rar", {"Negative/1.jpg": b"one", "Positive/2.jpg": b"two"})
    if script:
        write_program(programs / "7z", script)
    refused(bad, complaint)


LINK = "is refused: its entry 'a.jpg' is a link. Nothing was unpacked."
RECORDS = {bytes([5, kind, 0, 2]) + b"up": LINK for kind in range(1, 6)}  # links of RAR 5's five kinds
RECORDS[b"\1\0\0\x0f" + bytes(32)] = "is encrypted. Unpack it yourself and give the folder as FROM=."


@pytest.mark.usefixtures("earlier")
@pytest.mark.parametrize(("record", "complaint"), RECORDS.items())
def test_links_and_encrypted_entries_of_a_rar_are_refused(record: bytes, complaint: str, tmp_path: Path) -> None:
    bad = rar(tmp_path / "bad.rar", {"Negative/1.jpg": b"1", "Positive/1.jpg": b"2", "a.jpg": b"3"}, record)
    refused(bad, rf"bad\.rar.* {re.escape(complaint)}")


def test_rars_of_the_original_program_are_read(earlier: None, tmp_path: Path) -> None:
    if not (folder := os.environ.get("CRACKUTILS_TEST_RAR")):
        pytest.skip("CRACKUTILS_TEST_RAR names no folder with rar4-subdirs.rar and rar5-evil-symlink-traversal.rar")
    refused(Path(folder) / "rar5-evil-symlink-traversal.rar", r"\.rar is refused: its entry 'up' is a link")
    assert not Path(folder, "pwned.txt").exists()
    if not any(map(find_unpacker, UNPACKERS)):
        pytest.skip(f"no program that unpacks RAR here ({', '.join(UNPACKERS)})")
    origin = Path(folder) / "rar4-subdirs.rar"
    for file in (origin, wrapped(tmp_path / "bad.zip", origin, "deep/rar4-subdirs.rar")):
        refused(file, rf"{file.name} holds no pictures")


@pytest.mark.parametrize("damage", ["cut", "stored", "deflated", "stream"])
def test_damaged_zip(damage: str, earlier: None, tmp_path: Path, tree: Tree) -> None:
    how = zipfile.ZIP_STORED if damage in ("cut", "stored") else zipfile.ZIP_DEFLATED
    bad = zipped(tmp_path / "bad.zip", tree(tmp_path / "bad", 4), how=how)
    data = bytearray(bad.read_bytes())
    with zipfile.ZipFile(bad) as z:
        entry = z.infolist()[4]
        start = entry.header_offset + 30 + len(entry.filename)
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "stream":
        data[start] = 0x07  # a kind of block that deflate does not have
    else:
        data[start + entry.compress_size // 2] ^= 0x10
    bad.write_bytes(data)
    refused(bad, r"bad\.zip is .*(: d|\. D)ownload or copy it again\.$")


OUTSIDE = ["../x.jpg", "Negative/../../../x.jpg", "/tmp/x.jpg", "C:\\x.jpg", "C:/x.jpg", "..\\x.jpg", "\\\\a\\b\\x.jpg"]


@pytest.mark.parametrize("name", [*OUTSIDE, "Negative/link.jpg"])
def test_unsafe_zip_entries_are_refused(name: str, earlier: None, tmp_path: Path, tree: Tree) -> None:
    bad, entry, what = zipped(tmp_path / "bad.zip", tree(tmp_path / "bad", 1)), zipfile.ZipInfo(name), "leads outside"
    if "link" in name:
        what, entry.create_system, entry.external_attr = "is a link", 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(bad, "a") as z:
        z.writestr(entry, "/etc/hostname")
    refused(bad, rf"^bad\.zip is refused: its entry '.*' {what}.*\. Nothing was unpacked")


def test_a_zip_packed_on_windows_or_by_the_finder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        for name in ("set\\Negative\\", "set\\Negative\\x.jpg", "set\\Positive\\day 1\\yZZ.jpg"):
            z.writestr(name, "")
    data = (tmp_path / "a.zip").read_bytes().replace(b"ZZ", "ü".encode())  # without the flag that says so
    (tmp_path / "a.zip").write_bytes(data)
    assert list(contents(fetch("own", tmp_path / "a.zip"))) == ["Negative/x.jpg", "Positive/day 1/yü.jpg"]


@pytest.mark.parametrize("how", ["tar", "gz", "bz2", "xz", "bzip2 ZIP", "lzma ZIP", "archives in a folder", "in a ZIP"])
def test_archives_that_python_reads(how: str, tmp_path: Path, mine: Path) -> None:
    file = tmp_path / "a"  # its content counts, not its name
    if "ZIP" in how and how != "in a ZIP":
        zipped(file, mine, how=zipfile.ZIP_BZIP2 if "bzip2" in how else zipfile.ZIP_LZMA)
    elif how.startswith(("archives", "in a")):
        (tmp_path / "both").mkdir()
        zipped(tmp_path / "both" / "positive.zip", mine / "Positive")
        with tarfile.open(tmp_path / "both" / "no crack.tar.gz", "w:gz") as tar:
            tar.add(mine / "Negative", "deep")
        file = tmp_path / "both" if how.startswith("archives") else zipped(file, tmp_path / "both")
    else:
        with tarfile.open(file, f"w:{how.removeprefix('tar')}") as tar:
            tar.add(mine, "set")
    found = {name.replace("/deep/", "/"): content for name, content in contents(fetch("own", file)).items()}
    assert found == contents(mine)


@pytest.mark.parametrize("tool", ["7z", "7zz", "bsdtar"])
@pytest.mark.parametrize("kind", ["7z", "zip.001", "Deflate64", "PPMd", "encrypted"])
def test_archives_that_programs_read(kind: str, tool: str, tmp_path: Path, mine: Path, request: Any) -> None:
    packer, program = find_unpacker("7z") or find_unpacker("7zz"), find_unpacker(tool)
    if not packer or not program:
        pytest.skip(f"7z and {tool} are not both installed here")
    (mine / "Positive" / "long.bmp").write_bytes(b"long" * 5000)  # what is short is stored
    options = {"7z": [], "zip.001": ["-tzip", "-v2k"], "encrypted": ["-psecret", "-mhe=on"]}
    command = [packer, "a", *options.get(kind, ["-tzip", f"-mm={kind}"]), tmp_path / f"a.{kind.split('.')[0]}", mine]
    subprocess.run(command, check=True, capture_output=True)
    file = next(tmp_path.glob("a.*1")) if "." in kind else tmp_path / f"a.{kind}"
    (request.getfixturevalue("programs") / tool).symlink_to(program)
    if kind == "encrypted":
        refused(file, rf"a\.{kind} is encrypted\. Unpack it yourself")
    elif tool == "bsdtar" and kind in ("zip.001", "Deflate64"):  # which newer ones read
        with contextlib.suppress(CrackutilsError):
            fetch("own", file)
            return
        refused(file, r"could not be unpacked \(bsdtar: .*\)\. Install 7-Zip, or unpack it elsewhere")
    else:
        assert contents(fetch("own", file)) == contents(mine)


def patched(file: Path, flag: int = 0, method: int = 0) -> Path:
    """Write another flag, or another compression, into all headers of a ZIP."""
    data = bytearray(file.read_bytes())
    for magic, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        for found in re.finditer(re.escape(magic), bytes(data)):
            data[found.start() + at] |= flag
            data[found.start() + at + 2] |= method
    file.write_bytes(data)
    return file


OTHERS = {  # what is given as bad.zip
    b"  <!DOCTYPE html><title>Download": r"is a web page or a server's message, not an archive\. Download the",
    b"": r"has zero bytes\. It may be cut short",
    b"PK\3\4 and nothing more": r"is damaged or cut short .*\. Download or copy it again\.$",
    b"7z\xbc\xaf\x27\x1c and nothing more": r"^No installed program unpacks bad\.zip, a 7z archive\. Install 7-Zip or",
    b"\x28\xb5\x2f\xfd and nothing more": r"^No installed program unpacks bad\.zip, a zstd archive\. Install 7-Zip or",
    b"\x1f\x8b and nothing more": r"is not a tar archive, or damaged or cut short \(.*\)\. Download or copy it again",
}


@pytest.mark.parametrize(("content", "why"), OTHERS.items())
@pytest.mark.usefixtures("earlier", "programs")
def test_other_files_are_called_what_they_are(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(content)
    refused(tmp_path / "bad.zip", why)


@pytest.mark.usefixtures("earlier", "programs")
def test_zips_that_nothing_reads_and_parts_of_archives(tmp_path: Path, tree: Tree) -> None:
    mine = tree(tmp_path / "bad", 1)
    unusual = patched(zipped(tmp_path / "bad.zip", mine), method=9)
    refused(unusual, r"unpacks bad\.zip, a ZIP with deflate64 compression")
    refused(patched(zipped(tmp_path / "bad.zip", mine), flag=1), r"bad\.zip is encrypted\. Unpack it yourself")
    for name in ("bad.z01", "bad.zip.002", "bad.part2.rar", "bad.7z.010", "bad.r00"):
        (tmp_path / "bad.zip").rename(tmp_path / name)
        refused(tmp_path / name, r"is a later part of a split archive\. Give the first part, with the others beside it")
        (tmp_path / name).rename(tmp_path / "bad.zip")


@pytest.mark.parametrize("bad", ["../x.jpg", "/x.jpg", "..\\x.jpg", "link", "cut"])
def test_tar_archives_are_checked_as_well(bad: str, earlier: None, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.rar", "w") as tar:
        entry = tarfile.TarInfo("Positive/x.jpg" if bad in ("link", "cut") else bad)
        entry.type, entry.linkname, entry.size = (tarfile.SYMTYPE, "/etc/passwd", 0) if bad == "link" else (b"0", "", 9)
        tar.addfile(entry, io.BytesIO(bytes(9)))
    if bad == "cut":
        (tmp_path / "bad.rar").write_bytes((tmp_path / "bad.rar").read_bytes()[:515])
    refused(tmp_path / "bad.rar", r"is a link\. Nothing|leads outside the folder\. Nothing|or cut short \(.*\)\. Downl")


def test_from_that_is_not_whole_or_does_not_fit(earlier: None, tmp_path: Path, tree: Tree, monkeypatch: Any) -> None:
    refused(tmp_path / "none.zip", r"none\.zip does not exist\. Give an archive \(ZIP, RAR, 7z, tar\) or a folder\.$")
    (tmp_path / "bad.rar").write_text("nothing of the kind")
    refused(tmp_path / "bad.rar", r"bad\.rar is neither a folder nor a whole archive")
    mine = tree(tmp_path / "bad", 2)
    cut = rar_of(tmp_path / "bad.rar", mine).read_bytes()
    (tmp_path / "bad.rar").write_bytes(cut[: len(cut) // 2])
    refused(tmp_path / "bad.rar", r"bad\.rar.*\. (Download or copy it again|Install unrar.*)\.$")
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    for bad in (zipped(tmp_path / "bad.zip", mine), rar_of(tmp_path / "bad.rar", mine)):
        refused(bad, r"^bad\.\w+ holds .* GB, but the disk has 0\.0 GB free\. Free disk space, or set CRACK")


def test_a_source_without_an_address_is_not_downloaded() -> None:
    with pytest.raises(CrackutilsError, match=r"own has no address to download from\. Use make data SOURCE=own FROM="):
        fetch("own")


def test_what_a_kill_leaves_the_same_call_repairs(data_dir: Path, tmp_path: Path, mine: Path, tree: Tree) -> None:
    target = fetch("own", mine)
    before = contents(target)
    target.rename(target.with_name(".own.old"))  # a kill between the two renamings
    part = tree(data_dir / "raw" / ".own.part", 4)  # one more of each class
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"empty holds no pictures\.")
    assert contents(target) == before
    tree(part, 4)  # a kill in the middle of unpacking
    assert contents(fetch("own", mine)) == before


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` under any path that has no "missing" in it, and notes what it was asked."""

    body = b""
    ranges = True
    break_after: tuple[int | None, ...] = ()  # bytes of the first answers

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def asked_from(self) -> list[str | None]:
        return [headers.get("Range") for headers in self.asked]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(dict(self.headers.items()))
        body, status = server.body, 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if server.ranges else None
        if "missing" in self.path:
            body, status = b"not here", 404
        elif asked:
            body, status = body[int(asked[1]) :], 206 if int(asked[1]) < len(body) else 416
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {asked[1]}-{len(server.body) - 1}/{len(server.body)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body[: dict(enumerate(server.break_after, 1)).get(len(server.asked))])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, tree: Tree) -> Iterator[Server]:
    """A server with a small ZIP, which serves as the published file."""
    with Server() as server:
        archive = zipped(tmp_path / "published.zip", tree(tmp_path / "published", 2))
        with zipfile.ZipFile(archive, "a") as z:
            z.writestr("padding", bytes(5 << 19))
        server.body = archive.read_bytes()
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch, server: Server) -> Publish:
    """Return a function that makes a file the published one, at paths of the server."""

    def publish(body: bytes = server.body, **paths: str) -> dict[str, Any]:
        entry = {"name": "A data set", "file": "Published.rar", "page": "https://example.org/data-set"}
        entry |= {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        entry["addresses"] = [{"url": server.url + path, "save_as": f"a.{ending}"} for ending, path in paths.items()]
        monkeypatch.setattr(datasets, "sources", lambda: {"metu": entry})
        return entry

    return publish


def test_download(tmp_path: Path, server: Server, publish: Publish) -> None:
    publish(rar="/a")
    assert contents(fetch("metu")) == contents(tmp_path / "published")
    agent = server.asked[0]["User-Agent"]
    assert agent.startswith("Mozilla/5.0") and "python" not in agent.lower()
    fetch("metu")  # fewer images than the whole set has, so it is unpacked again, from the cached file
    assert server.asked_from() == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_download_goes_on_or_starts_again(ranges: bool, data_dir: Path, server: Server, publish: Publish) -> None:
    server.ranges = ranges
    (data_dir / "downloads").mkdir(parents=True)
    (data_dir / "downloads" / "a.rar.part").write_bytes(server.body[:1000] if ranges else b"x" * 1000)
    assert download("metu", publish(rar="/a")).read_bytes() == server.body and server.asked_from() == ["bytes=1000-"]
    assert [p.name for p in (data_dir / "downloads").iterdir()] == ["a.rar"]


@pytest.mark.parametrize("curl", [True, False])
def test_curl_or_the_next_call_goes_on(curl: bool, data_dir: Path, server: Server, publish: Any, request: Any) -> None:
    publish(rar="/a")
    server.break_after = (3 << 19,)  # there the connection breaks
    if not curl:
        request.getfixturevalue("programs")
        refused(None, r"a\.rar: .*make data FROM=")
        assert (data_dir / "downloads" / "a.rar.part").read_bytes() == server.body[: 1 << 20]  # whole chunks
    elif not shutil.which("curl"):
        pytest.skip("curl is not installed here")
    assert len(contents(fetch("metu"))) == 4 and server.asked_from() == [None, f"bytes={1 << 20}-"]
    assert len({headers["User-Agent"] for headers in server.asked}) == 1


def test_a_file_with_a_wrong_hash_is_removed(data_dir: Path, programs: Path, server: Server, publish: Publish) -> None:
    publish(rar="/a")
    server.body = server.body[:-1] + b"!"
    refused(None, r"a\.rar: wrong SHA-256, so it was removed\)\. .*make data FROM=")
    assert list((data_dir / "downloads").iterdir()) == []
    (data_dir / "downloads" / "a.rar").write_bytes(server.body)
    refused(None, r"the cached file had a wrong SHA-256, so it was removed")
    assert list((data_dir / "downloads").iterdir()) == [] and not (data_dir / "raw" / "metu").exists()


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("right", [True, False])
def test_a_rar_in_a_downloaded_zip(right: bool, data_dir: Path, tmp_path: Path, server: Server, publish: Any) -> None:
    entry = publish(b"the RAR", rar="/missing", zip="/b")
    (tmp_path / "b.rar").write_bytes(b"the RAR" if right else b"another")
    server.body = wrapped(tmp_path / "b.zip", tmp_path / "b.rar", "data/Published.rar").read_bytes()
    if right:
        file = download("metu", entry)
        assert file.read_bytes() == server.body
        file.rename(f"{file}.part")
        assert download("metu", entry) == file  # there was nothing left to get: status 416
        assert server.asked_from()[-1] == f"bytes={len(server.body)}-"
    else:
        with pytest.raises(CrackutilsError, match=r"a\.rar: the server answered 404; a\.zip: wrong SHA-256"):
            download("metu", entry)
        assert list((data_dir / "downloads").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="the program is a shell script")
def test_addresses_that_fail_name_the_page(tmp_path: Path, programs: Path, server: Server, publish: Publish) -> None:
    write_program(programs / "curl", f'echo "$@" > "{tmp_path}/asked"\nexit 7')
    with Server() as closed:
        pass
    for url, why in ((server.url, "the server answered 404"), (closed.url, r"no connection \(ConnectionError\)")):
        server.url = url
        publish(rar="/missing")
        refused(None, rf"^metu could not .* \(a\.rar: {why}\)\..*https://example\.org/data-set .*make data FROM=.*$")
        assert not datasets.raw_folder("metu").exists()
    asked = (tmp_path / "asked").read_text()  # curl may not wait for ever
    assert all(o in asked for o in ("--fail", "-C -", "--connect-timeout", "--speed-limit", "--speed-time"))


CHANGES = {"smoke": ("seed", "patches", "each", "numpy", "cv2", "code"), "walls": ("seed", "photos")}


@pytest.mark.parametrize(("source", "changed"), [(source, c) for source in CHANGES for c in CHANGES[source]])
def test_synthetic_images_are_drawn_once_and_again(source: str, changed: str, tmp_path: Path, monkeypatch: Any) -> None:
    drawn, entry = [], datasets.sources()[source]
    names = ("photos", "seed") if source == "walls" else ("patches", "seed", "each")
    writer = "write_tiles" if source == "walls" else "write_patches"
    monkeypatch.setattr(f"crackutils.sources.fetch.{writer}", lambda folder, *args: drawn.append(args))
    monkeypatch.setattr(datasets, "sources", lambda: {source: entry})
    monkeypatch.setattr(config, "PACKAGE", shutil.copytree(config.PACKAGE / "synthetic", tmp_path / "synthetic").parent)
    expected = [tuple(entry[name] for name in names)]
    for _ in range(2):
        prepare(config.profile(source))
    assert drawn == expected
    if changed in entry:
        entry |= {changed: 9}
    elif changed == "code":
        (tmp_path / "synthetic" / "deep").mkdir()
        (tmp_path / "synthetic" / "deep" / "more.py").write_text("GRAIN = 2\n")
    else:
        monkeypatch.setattr(f"{changed}.__version__", "0.0")
    prepare(config.profile(source))
    assert drawn == [*expected, tuple(entry[name] for name in names)]


@pytest.mark.parametrize("colab", [False, True])
def test_only_colab_downloads_what_is_missing(colab: bool, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    monkeypatch.setattr("crackutils.sources.fetch.fetch", fetched.append)
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", object())
    for name in ("metu-mini", "own", "sdnet"):
        prepare(config.profile(name))
    assert fetched == (["metu"] if colab else [])
    (data_dir / "raw" / "metu").mkdir(parents=True)
    prepare(config.profile("metu"))
    assert len(fetched) == colab


def test_a_timeout_within_a_lock_is_not_taken_for_a_busy_one(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="of the block"), lock_file(tmp_path / "lock", "it is busy"):
        raise TimeoutError("of the block")


def test_hash_of_sources_counts_every_file_of_every_subfolder(tmp_path: Path) -> None:
    deep = tmp_path / "room" / "a" / "b"
    deep.mkdir(parents=True)
    hashes = []
    for name in ("one.py", "two.j2", "three.npz", "four.json"):
        file, other = deep / name, deep / f"x{name}"
        steps = partial(file.write_text, "first"), partial(file.write_text, "second"), partial(file.rename, other)
        for step in (*steps, partial(other.rename, deep.parent / other.name)):
            step()
            hashes.append(hash_sources(tmp_path / "room"))
    assert len(set(hashes)) == 16
    (deep / "notes.txt").write_text("no source")
    (tmp_path / "other").mkdir()
    assert hash_sources(shutil.copytree(tmp_path / "room", tmp_path / "other" / "room")) == hashes[-1]
