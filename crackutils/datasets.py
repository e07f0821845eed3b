"""Fetch, unpack, decode and index images.

`read_image` is the only decoder of the project: indexing, training and scoring all see the same pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
import PIL
from PIL import ExifTags, Image

from crackutils import config
from crackutils.config import CLASSES, CrackutilsError, Profile, choose

GREY = 128  # side of the grey thumbnails, pixels
COLOUR = 16  # side of the colour thumbnails, pixels
SMALLEST = 32  # shorter side below which an image is left out, pixels
DECODING = "1"  # raise it when decoding or the thumbnails change: caches made before are then made again
_FOLDER = "folder-"  # how the sources of `at` begin
_COLUMNS = ["file", "label", "number", "bytes", "sha256", "width", "height", "mode", "phash"]  # of an index
_TOO_MANY = f"has absurdly many pixels, more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million; cut it into parts"
FORMATS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_UPRIGHT = {  # what turns a picture upright, by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) crackutils"  # the default one of urllib is refused by the data's host


class ImageError(CrackutilsError):
    """A file that cannot be used as an image; the message says why, without the file's name."""


# ---------------------------------------------------------------- decoding


def read_image(file: str | Path | bytes, size: int | None = None) -> np.ndarray:
    """Decode an image file to RGB as a person sees it.

    EXIF rotation is applied, 16-bit grey is scaled (not clipped), transparent pixels lie on white,
    CMYK and palettes are converted; of an animation the first frame counts.

    Args:
        file: a path, or the bytes of the file.
        size: side in pixels to resize to (square, bilinear with antialiasing); None keeps the size.

    Returns:
        uint8 array (height, width, 3), values 0-255.

    Raises:
        ImageError: not an image, truncated, or of a kind that has no 8-bit meaning.
    """
    return _decode(file, size)[0]


def _decode(file: str | Path | bytes, size: int | None = None) -> tuple[np.ndarray, str]:
    """Return the pixels as `read_image` does, and Pillow's name of the stored mode."""
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
            mode = opened.mode
            image = _to_rgb(_upright(opened))
    except (Image.UnidentifiedImageError, Image.DecompressionBombError) as error:
        bomb = isinstance(error, Image.DecompressionBombError)
        raise ImageError(_TOO_MANY if bomb else "is not an image") from error
    except FileNotFoundError as error:
        raise ImageError("does not exist") from error
    except PermissionError as error:
        raise ImageError("may not be read") from error
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise whatever their parsing runs into
        raise ImageError(f"is truncated or damaged ({error})") from error
    pixels = np.asarray(image)
    return (pixels if size is None else resize(pixels, size)), mode


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Return a uint8 (height, width, 3) image squeezed to (size, size, 3), bilinear with antialiasing."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def _upright(image: Image.Image) -> Image.Image:
    """Apply EXIF rotation; ImageOps.exif_transpose also writes the EXIF anew, which badly written EXIF makes fail."""
    image.load()
    turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips everything above 255 to white
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError("has 32-bit values; save it with 8 or 16 bits")
        # rounded in whole numbers: photos are too large for floating-point values
        image = Image.fromarray((values // 257 + (values % 257 > 128)).astype(np.uint8))
    if image.mode == "F":
        raise ImageError("has floating-point values; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


# ---------------------------------------------------------------- fetching


def sources() -> dict[str, dict[str, Any]]:
    """Return the entries of `data/sources.toml` by name."""
    return tomllib.loads((config.ROOT / "data" / "sources.toml").read_text("utf-8"))


def raw_folder(source: str) -> Path:
    """Folder that holds the images of a source, in `Negative/` and `Positive/`."""
    return config.data_dir() / "raw" / source


def fetch(source: str, origin: str | Path | None = None) -> Path:
    """Put the images of a source under `data/raw/`, by download or from the user's own copy.

    Args:
        source: an entry of `data/sources.toml`.
        origin: a RAR, a ZIP or a folder that the user has; it is only read. None downloads.

    Returns:
        The folder with `Negative/` and `Positive/`.

    Raises:
        CrackutilsError: nothing to download from, a damaged archive, entries that lead outside, a missing class
            folder, no program that unpacks RAR. What was there before stays in place in all these cases.
    """
    entry = sources()[choose("SOURCE", source, sources())]
    target = raw_folder(source)
    if origin is None:
        if "seed" in entry:
            return _draw_sample(source, entry)
        if target.is_dir() and not _short_of(source, target):
            print(f"{source}: already in {config.shown(target)}; remove that folder to fetch it again.")
            return target
        if "addresses" not in entry:
            raise CrackutilsError(
                f"{source} has no address to download from; use make data SOURCE={source} FROM=folder."
            )
        origin = _download(source, entry)
    origin = Path(origin).expanduser()
    if not origin.exists():
        raise CrackutilsError(f"FROM={origin} does not exist; give a RAR, a ZIP or a folder.")
    with _replacing(target) as work:
        _unpack(origin, work, entry)
        found = _class_folders(work, origin)
        for name in CLASSES:
            os.replace(found / name, work / f".{name}")
        for item in work.iterdir():
            if item.name not in {f".{name}" for name in CLASSES}:
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        for name in CLASSES:
            os.replace(work / f".{name}", work / name)
    counts = ", ".join(f"{sum(1 for _ in (target / name).iterdir()):,} {name}" for name in CLASSES)
    print(f"{source}: {counts} in {config.shown(target)}")
    return target


def _short_of(source: str, folder: Path) -> bool:
    """Whether `folder` holds fewer images than the largest profile of this source wants."""
    want = max((p.per_class for p in config.PROFILES.values() if p.source == source), default=0)
    return any(not (folder / name).is_dir() or sum(1 for _ in (folder / name).iterdir()) < want for name in CLASSES)


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
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


def _draw_sample(source: str, entry: dict[str, Any]) -> Path:
    from crackutils import synthetic

    target = raw_folder(source)
    stamp = target / "made_from.txt"
    code, made_by = (
        config.sha256(Path(synthetic.__file__)),
        f"numpy {np.__version__}, opencv {synthetic.cv2.__version__}, pillow {PIL.__version__}",
    )
    made = (
        f"{code} {' '.join(f'{k}={entry[k]}' for k in ('patches', 'photos', 'each', 'seed') if k in entry)} {made_by}\n"
    )
    if stamp.is_file() and stamp.read_text("utf-8") == made:
        return target
    with _replacing(target) as work:
        if "photos" in entry:
            synthetic.draw_tiles(work, entry["photos"], entry["seed"])
        else:
            synthetic.draw(work, entry["patches"], entry["seed"], entry["each"])
        (work / stamp.name).write_text(made, "utf-8")
    return target


def _class_folders(work: Path, origin: Path) -> Path:
    """Return the one folder below `work` that holds a folder per class."""
    found = [p.parent for p in sorted(work.rglob(CLASSES[0])) if (p.parent / CLASSES[1]).is_dir() and p.is_dir()]
    found = [p for p in found if "__MACOSX" not in p.relative_to(work).parts]  # macOS adds a shadow of every folder
    if len(found) != 1:
        what = "holds no folder" if not found else "holds several folders"
        raise CrackutilsError(f"{origin} {what} with {CLASSES[0]}/ and {CLASSES[1]}/ in it; it must hold exactly one.")
    return found[0]


def _unpack(origin: Path, work: Path, entry: dict[str, Any]) -> None:
    import rarfile

    if origin.is_dir():
        _copy_folder(origin, work)
        return
    if zipfile.is_zipfile(origin):
        _unzip(origin, work)
        inner = [p for p in work.rglob("*.rar") if p.is_file()]
        if len(inner) == 1 and not any(work.rglob(CLASSES[0])):  # the data's page also hands out a ZIP around the RAR
            rar = inner[0].rename(work / inner[0].name)
            _unpack(rar, work, entry)
            rar.unlink()
    elif rarfile.is_rarfile(origin):
        if "sha256" in entry and config.sha256(origin) != entry["sha256"]:
            print(f"note: {origin.name} is not the published {entry['file']} (its SHA-256 differs).")
        _unrar(origin, work)
    else:
        raise CrackutilsError(
            f"{origin} is neither a whole ZIP nor a RAR nor a folder; it may be cut short: download or copy it again."
        )


def _copy_folder(origin: Path, work: Path) -> None:
    holder = [p for p in (origin, *sorted(d for d in origin.rglob("*") if d.is_dir())) if (p / CLASSES[0]).is_dir()]
    holder = [p for p in holder if (p / CLASSES[1]).is_dir()]
    if len(holder) != 1:
        _class_folders(origin, origin)
    for name in CLASSES:
        (work / name).mkdir()
        files = [p for p in sorted((holder[0] / name).iterdir()) if p.is_file()]
        for file in config.progress(files, f"copying {name}", unit="file"):
            shutil.copyfile(file, work / name / file.name)


def _refuse_unsafe(name: str, is_link: bool, archive: Path) -> None:
    windows = PureWindowsPath(name)
    outside = windows.drive or windows.root or ".." in windows.parts or PurePosixPath(name).is_absolute()
    if is_link or outside:
        what = "is a link" if is_link else "leads outside the folder"
        raise CrackutilsError(f"{archive.name} is refused: its entry {name!r} {what}; nothing was unpacked.")


def _unzip(archive: Path, work: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as z:
            entries = z.infolist()
            for e in entries:
                _refuse_unsafe(e.filename, stat.S_ISLNK(e.external_attr >> 16), archive)
            _refuse_too_large(sum(e.file_size for e in entries), work, archive)
            for e in config.progress(entries, f"unpacking {archive.name}", unit="file"):
                z.extract(e, work)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise CrackutilsError(f"{archive} is damaged or encrypted ({error}); download or copy it again.") from error


def _refuse_too_large(size: int, work: Path, archive: Path) -> None:
    free = shutil.disk_usage(work).free
    if size > free:
        raise CrackutilsError(
            f"{archive.name} unpacks to {size / 1e9:.1f} GB, {config.shown(work.parent)} has {free / 1e9:.1f} GB free."
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
                raise CrackutilsError(f"{archive} is encrypted; unpack it yourself and give the folder as FROM=.")
    except rarfile.Error as error:
        raise CrackutilsError(f"{archive} is damaged ({error}); download or copy it again.") from error
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
            raise CrackutilsError(
                f"{archive} could not be unpacked ({'; '.join(complaints)}); download or copy it again."
            )
        if not done:
            raise CrackutilsError(
                f"No program here unpacks {archive.name}: install one of unrar, bsdtar (Debian: libarchive-tools),"
                " unar or 7-Zip, or unpack it elsewhere and give the folder as FROM=."
            )
    for path in work.rglob("*"):
        if path.is_symlink():
            raise CrackutilsError(f"{archive.name} is refused: it unpacked a link, {path.name!r}.")
    for e in entries:  # programs built on libarchive do not look at all checksums
        path = work / e.filename
        if e.CRC is not None and path.is_file() and zlib.crc32(path.read_bytes()) != e.CRC:
            raise CrackutilsError(f"{archive} is damaged (checksum of {e.filename}); download or copy it again.")


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


# ---------------------------------------------------------------- download


def _download(source: str, entry: dict[str, Any]) -> Path:
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
    raise CrackutilsError(
        f"{source} could not be downloaded ({'; '.join(complaints)}). Try again, or download {entry['file']} with a"
        f" browser from {entry['page']} and run: make data FROM=<that file>."
    )


def _is_published(file: Path, sha256: str) -> bool:
    """Whether a file, or the one RAR inside a ZIP, has this SHA-256."""
    if config.sha256(file) == sha256:
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


# ---------------------------------------------------------------- index


@dataclass(frozen=True, eq=False)
class Dataset:
    """The images of a profile, decoded once and described.

    Attributes:
        profile: the profile it was loaded for.
        folder: folder that the `file` column is relative to.
        index: a row per usable image: file, label (0 Negative, 1 Positive), number, bytes, sha256, width, height
            (pixels as seen, after EXIF rotation), mode (Pillow's name), phash (64-bit difference hash, 16 hex digits).
        left_out: file and reason of every file that is not used.
        grey: uint8 (n, 128, 128), grey thumbnails in index order.
        colour: uint8 (n, 16, 16, 3), RGB thumbnails in index order.
        labels: "given", or "corrected" where the verdicts of `verdicts` stand in the index.
    """

    profile: Profile
    folder: Path
    index: pd.DataFrame
    left_out: pd.DataFrame
    grey: np.ndarray
    colour: np.ndarray
    labels: str = config.LABELS[0]

    @cached_property
    def given(self) -> np.ndarray:
        """The labels that the folders give, int (n,), whatever was corrected: splits are made with them."""
        return self.index["file"].str.startswith(f"{CLASSES[1]}/").to_numpy().astype(int)

    @cached_property
    def sha256(self) -> str:
        """Hash of all names and contents: equal for equal images wherever they came from."""
        lines = (self.index["file"] + "\t" + self.index["sha256"]).sort_values()
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def cache(self) -> Path:
        """Folder for what is computed from exactly these images."""
        return config.data_dir() / "cache" / f"{self.profile.source}-{self.sha256[:12]}"

    @cached_property
    def cuts(self) -> pd.DataFrame:
        """Where each image was cut, a row per image in index order: photo (its number, -1 where it is not known), and
        for the sample x, y (left, top, pixels) and what `synthetic.draw` notes besides.
        """
        table = self.folder / "patches.csv"
        found = self.index["file"].str.extract(r"/(\d+)-\d+\.", expand=False)  # PHOTO-TILE.jpg, as SDNET2018's
        if not table.is_file() and (self.profile.source == "sdnet" or found.notna().all()):
            return self.index[["file"]].assign(photo=found.fillna(-1).astype(int))
        cuts = pd.read_csv(table) if table.is_file() else pd.DataFrame()
        if not {"file", "photo"} <= set(cuts):  # not a table like the sample's
            cuts = pd.DataFrame({"file": [], "photo": []})
        cuts = self.index[["file"]].merge(cuts, how="left", on="file")
        return cuts.assign(photo=cuts["photo"].fillna(-1).astype(int))

    def read(self, row: int, size: int | None = None) -> np.ndarray:
        """Decode the image in a row of the index, as `read_image` does."""
        return read_image(self.folder / self.index["file"].iloc[row], size)

    def pixels(self, size: int) -> np.ndarray:
        """Return all images at one size: uint8 (n, size, size, 3), memory-mapped from a cache made on first use."""
        file = self.cache / f"pixels-{size}.v{DECODING}.npy"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            out = np.lib.format.open_memmap(part, "w+", np.uint8, (len(self.index), size, size, 3))
            rows = range(len(self.index))
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                decoded = pool.map(lambda row: self.read(row, size), rows)
                for row, image in zip(rows, config.progress(decoded, f"decoding at {size} px", len(rows)), strict=True):
                    out[row] = image
            out.flush()
            del out
            os.replace(part, file)
        return np.load(file, mmap_mode="r")


def load(profile: Profile, labels: str = config.LABELS[0]) -> Dataset:
    """Return the images of a profile, making the sample or indexing the files where that is still to be done.

    Args:
        profile: as `config.start` returned it.
        labels: "given" by the folders, or "corrected" by `verdicts`: what is ambiguous stays as given.

    Raises:
        CrackutilsError: the source is not there, or holds fewer files than the profile needs; no label of it is known
            to be wrong.
    """
    config.choose("LABELS", labels, config.LABELS)
    entry = sources()[profile.source]
    folder = fetch(profile.source) if "seed" in entry else raw_folder(profile.source)
    how = f"make data{'' if profile.source == 'metu' else f' SOURCE={profile.source}'}"
    if "addresses" in entry and "google.colab" in sys.modules and not folder.is_dir():
        fetch(profile.source)  # Colab starts from an empty disk, and the notebook is all that its user runs
    if not all((folder / name).is_dir() for name in CLASSES):
        raise CrackutilsError(
            f"PROFILE={profile.name} needs the images of {entry['name']}: run {how} FROM=<archive or folder that you"
            " have>" + (f", or {how} to download them." if "addresses" in entry else ".")
        )
    index, left_out, grey, colour = _index(profile.source, folder)
    if profile.numbers:
        keep = index["number"].between(*profile.numbers).to_numpy()
        numbers = left_out["file"].map(_number)
        left_out = left_out[numbers.between(*profile.numbers)].reset_index(drop=True)
    else:
        keep = np.ones(len(index), bool)
    there = pd.concat([index.loc[keep, "file"], left_out["file"]]).str.split("/").str[0].value_counts()
    for name in CLASSES:
        if there.get(name, 0) < max(profile.per_class, 1):
            want = f"{profile.per_class:,} images" if profile.per_class else "at least one image"
            raise CrackutilsError(
                f"PROFILE={profile.name} needs {want} in {name}/, {config.shown(folder)} has {there.get(name, 0):,};"
                f" choose a smaller PROFILE or run {how} FROM=<the whole archive>."
            )
    if not keep.all():
        index, grey, colour = index[keep].reset_index(drop=True), grey[keep], colour[keep]
    ds = Dataset(profile, folder, index, left_out, grey, colour, labels)  # whole, the thumbnails stay on disk
    if labels != config.LABELS[0]:
        table = verdicts(ds)
        if not len(table):
            raise CrackutilsError(
                f"LABELS={labels}: nobody looked at the labels of PROFILE={profile.name}; leave it out."
            )
        sure = table[table["verdict"] != "ambiguous"]
        index = index.assign(label=ds.given)
        index.loc[sure["row"], "label"] = (sure["verdict"] == "crack").astype(int).to_numpy()
        ds = replace(ds, index=index)
    return ds


def at(folder: Path) -> Dataset:
    """Return the images of any folder with Negative/ and Positive/; its images stay where they are.

    Raises:
        CrackutilsError: a class without a usable image.
    """
    source = f"{_FOLDER}{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}"
    index, left_out, grey, colour = _index(source, folder)
    for label, name in enumerate(CLASSES):
        if not (index["label"] == label).any():
            raise CrackutilsError(f"{folder / name} holds no usable image; it needs at least one.")
    return Dataset(config.Profile(folder.name, str(folder), source), folder, index, left_out, grey, colour)


def usual_target(profile: Profile) -> str:
    """Return where a profile's models are tested if nothing else is asked for.

    SDNET2018's walls for METU, where they are here; else walls made by code.
    """
    real = raw_folder("sdnet")
    return "sdnet" if profile.source == "metu" and all((real / name).is_dir() for name in CLASSES) else "walls"


def target(name: str) -> Dataset:
    """Return the images to test on: those of a profile, or of a folder with Negative/ and Positive/.

    Raises:
        CrackutilsError: neither a profile nor such a folder; what `load` raises.
    """
    if name in config.PROFILES:
        return load(config.profile(name))
    folder = Path(name).expanduser()
    folder = folder if folder.is_absolute() else config.ROOT / folder  # notebooks run in a folder of their own
    if not folder.is_dir():
        raise CrackutilsError(
            f"TARGET={name} is neither a profile ({', '.join(config.PROFILES)}) nor a folder; name a folder with"
            " Negative/ and Positive/ in it."
        )
    if not all((folder / kind).is_dir() for kind in CLASSES):
        raise CrackutilsError(
            f"TARGET={name} holds no Negative/ and Positive/, so nothing can be counted there; to score images without"
            f" labels run python -m crackutils score {name} --out scores.csv."
        )
    return at(folder)


def verdicts(ds: Dataset) -> pd.DataFrame:
    """Return verdicts on labels that are wrong or may be, from pictures that were opened: `data/audit/*_labels.csv`.

    Returns:
        A row per such image of these: row (of the index), file, label (the given one), verdict (crack, no crack or
        ambiguous), reason. Empty where none is known.

    Raises:
        CrackutilsError: an image of that name has other bytes than the one that was looked at.
    """
    file = config.AUDIT / f"{ds.profile.source}_labels.csv"
    if not file.is_file():
        return pd.DataFrame({name: [] for name in ("row", "file", "label", "verdict", "reason")})
    here = ds.index[["file", "sha256"]].reset_index(names="row")
    table = here.merge(pd.read_csv(file), on="file", suffixes=("", "_seen"))
    if len(other := table[table["sha256"] != table["sha256_seen"]]):
        raise CrackutilsError(
            f"{len(other)} images, {other['file'].iloc[0]} first, are not those that {config.shown(file)} speaks of;"
            " fetch the published archive with make data."
        )
    return table[["row", "file", "label", "verdict", "reason"]]


def reads(ds: Dataset) -> pd.DataFrame:
    """Return which images were opened and read for their labels, and what was read: `data/audit/*_reads.csv`.

    Returns:
        A row per image of these: file, drawn (suspect: doubted by models; random: drawn from Negative images that
        nobody had read; control: drawn among those that models believe), first and second (what two readings said,
        neither of which saw the label), verdict (as in `verdicts`). Empty where nobody has read any.
    """
    file = config.AUDIT / f"{ds.profile.source}_reads.csv"
    columns = ["file", "drawn", "first", "second", "verdict"]
    table = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=columns)
    return table[table["file"].isin(ds.index["file"])].reset_index(drop=True)


def first(ds: Dataset, count: int) -> Dataset:
    """Return the first `count` images of each class in the order of the index, all where there are fewer."""
    rows = np.sort(ds.index.groupby("label").head(count).index.to_numpy())
    if len(rows) == len(ds.index):
        return ds
    return replace(ds, index=ds.index.iloc[rows].reset_index(drop=True), grey=ds.grey[rows], colour=ds.colour[rows])


def listed(folder: Path, files: Sequence[str], labels: Sequence[int]) -> Dataset:
    """Return files of the user's choice as a dataset, to compute features of; nothing is kept on disk.

    The index holds what `load` puts there, with the labels given here. There are no thumbnails (`grey` and `colour` are
    empty), and what goes by the names of folders, as `Dataset.given`, means nothing.

    Args:
        folder: what the files are relative to.
        files: their paths below it, or absolute ones.
        labels: 0 or 1 for each.
    """
    rows, left_out = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        described = pool.map(lambda file: _describe(folder / file), files)
        for file, label, found in zip(files, labels, described, strict=True):
            if isinstance(found, str):
                left_out.append({"file": file, "reason": found})
            else:
                rows.append({"file": file, "label": label, "number": _number(file)} | found[0])
    nothing = (np.zeros((0, GREY, GREY), np.uint8), np.zeros((0, COLOUR, COLOUR, 3), np.uint8))
    left_out = pd.DataFrame(left_out, columns=["file", "reason"])
    return Dataset(config.profile("own"), folder, pd.DataFrame(rows, columns=_COLUMNS), left_out, *nothing)


def row_of(ds: Dataset, file: str) -> int:
    """Return the row of a file such as Positive/00100.jpg; CrackutilsError if it is not in the index."""
    rows = ds.index.index[ds.index["file"] == file]
    if len(rows) != 1:
        raise CrackutilsError(
            f"IMAGE={file} is not among the images of {ds.profile.name}; write it like {ds.index['file'].iloc[0]}."
        )
    return int(rows[0])


def _number(file: str) -> int:
    digits = re.match(r"\d{1,18}(?!\d)", file.rsplit("/", 1)[-1])  # longer ones are no numbers, and fit no int64
    return int(digits[0]) if digits else -1


def _index(source: str, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    """Read the index of a source, made again if any file's name, size or time has changed."""
    files = [
        f"{name}/{p.name}"
        for name in CLASSES
        for p in sorted((folder / name).iterdir(), key=lambda p: (_number(p.name), p.name))
        if not p.name.startswith(".") and p.name.lower() != "thumbs.db"
    ]
    state = hashlib.sha256(DECODING.encode())
    for file in files:
        s = (folder / file).stat()
        state.update(f"{file}\t{s.st_size}\t{s.st_mtime_ns}\n".encode())
    home = config.data_dir() / "index" / source
    stamp = home / "state.json"
    if not stamp.is_file() or json.loads(stamp.read_text("utf-8")).get("state") != state.hexdigest():
        with _replacing(home) as work:
            _make_index(folder, files, work)
            (work / stamp.name).write_text(json.dumps({"state": state.hexdigest()}), "utf-8")
    text = {"file": str, "sha256": str, "mode": str, "phash": str, "reason": str}
    return (
        pd.read_csv(home / "index.csv", dtype=text, keep_default_na=False),
        pd.read_csv(home / "left_out.csv", dtype=text, keep_default_na=False),
        np.load(home / "grey.npy", mmap_mode="r"),
        np.load(home / "colour.npy", mmap_mode="r"),
    )


def _make_index(folder: Path, files: list[str], home: Path) -> None:
    rows, left_out, grey, colour = [], [], [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        described = pool.map(lambda file: _describe(folder / file), files)
        for file, found in zip(files, config.progress(described, "indexing", len(files)), strict=True):
            if isinstance(found, str):
                left_out.append({"file": file, "reason": found})
                continue
            row, g, c = found
            rows.append({"file": file, "label": CLASSES.index(file.split("/")[0]), "number": _number(file)} | row)
            grey.append(g)
            colour.append(c)
    pd.DataFrame(rows, columns=_COLUMNS).to_csv(home / "index.csv", index=False, lineterminator="\n")
    pd.DataFrame(left_out, columns=["file", "reason"]).to_csv(home / "left_out.csv", index=False, lineterminator="\n")
    np.save(home / "grey.npy", np.array(grey, np.uint8).reshape(-1, GREY, GREY))
    np.save(home / "colour.npy", np.array(colour, np.uint8).reshape(-1, COLOUR, COLOUR, 3))


def _describe(path: Path) -> tuple[dict[str, Any], np.ndarray, np.ndarray] | str:
    """Describe one file, or say why it is left out."""
    if not path.is_file():
        return "is not a file"
    data = path.read_bytes()
    if not data:
        return "has zero bytes"
    if path.suffix.lower() not in FORMATS:
        return f"is not named like an image ({path.suffix or 'no ending'})"
    try:
        pixels, mode = _decode(data)
    except ImageError as error:
        return str(error)
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST:
        return f"is too small ({width}x{height}, at least {SMALLEST} each way)"
    grey, colour = thumbnails(pixels)
    steps = np.asarray(Image.fromarray(grey).resize((9, 8), Image.Resampling.BOX)).astype(int)
    row = {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "width": width,
        "height": height,
        "mode": mode,
        "phash": np.packbits(np.diff(steps, axis=1) > 0).tobytes().hex(),
    }
    return row, grey, colour


def thumbnails(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the grey (128, 128) and the RGB (16, 16, 3) thumbnail of an image, all uint8."""
    image = Image.fromarray(pixels)
    small = image.convert("L").resize((GREY, GREY), Image.Resampling.BILINEAR)  # BOX averages unevenly here
    return np.asarray(small), np.asarray(image.resize((COLOUR, COLOUR), Image.Resampling.BOX))
