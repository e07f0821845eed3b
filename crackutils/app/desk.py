"""What one user of the page works on: photos, what was found in them, and corrections; all of it lies in one folder."""

import hashlib
import itertools
import json
import math
import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from crackutils.config import CrackutilsError
from crackutils.files import as_text, replacing_file, save_array, write_atomically
from crackutils.images import READ, ImageError, decode_image
from crackutils.inspection.drawing import draw_cross, draw_overlay, highlight, tint_overlay
from crackutils.inspection.export import join_shares
from crackutils.inspection.folder import inspect
from crackutils.inspection.limit import choose_limit
from crackutils.inspection.mask import crack_mask
from crackutils.inspection.measure import Piece
from crackutils.inspection.photo import UNUSABLE, cached_map, describe_unusable, find_cracks, folder_of, list_cracks
from crackutils.inspection.scale import describe_marker, scale_of_marker, scale_of_points
from crackutils.inspection.session import ADDED, ERASED, MARKS, SETTINGS, Edits, Session, read_session, write_session
from crackutils.inspection.tiling import CrackMap, Detector

LONGEST = 1600  # pixels of the longer side of the picture on the page
_NEAR = 24  # pixels of that picture within which a click finds a crack
_NUMBERED = 30  # longest cracks that have their number in the picture: more would cover it
_AROUND = 40  # pixels around a crack in its own picture
_TOLD = 3  # photos that cannot be used and are named, of those that are dropped together
_BRUSHES = {"add": ADDED, "erase": ERASED}
_KEPT = 7 * 24 * 3600  # seconds after which a desk that nobody opens is removed
_STATE, _OPENED = "state.json", "opened"
_LOCKS: dict[Path, threading.RLock] = {}  # by folder: tabs of one browser share theirs


@dataclass
class Sight:
    """One photo as it lies on the desk."""

    name: str
    image: np.ndarray  # uint8 (h, w, 3)
    seen: CrackMap
    mask: np.ndarray  # bool (h, w)
    cracks: pd.DataFrame  # rows of `find_cracks`, pixels
    pieces: list[Piece]
    note: str  # what of the file is not used, else empty

    @property
    def shrink(self) -> float:
        """Pixels of the page's picture per pixel of the photo, at most 1."""
        return min(1.0, LONGEST / max(self.image.shape[:2]))

    @property
    def marks(self) -> dict[int, tuple]:
        """What found lines are marked as, `session.LineMark`, by the number of the line."""
        return self.cracks.attrs["marks"]

    @property
    def rejected(self) -> dict[int, tuple]:
        """The marks of lines that are marked as a joint or as nothing."""
        return {line: mark for line, mark in self.marks.items() if mark[2] in MARKS[1:]}


class Desk:
    """A user's photos and corrections, kept in a folder.

    Lines of the open photo, cracks and those of `Sight.rejected`, have the numbers of `find_cracks`. `line` is that of
    the chosen one, `ends` are the points, of the photo, that a scale is taken from, `done` the files to hand on and
    when they were written. `version` grows whenever the photo or its lines may have changed.
    """

    def __init__(self, home: Path, net: Detector, **chosen: Any) -> None:
        """Open the desk that lies in the folder `home`, or a new one there.

        `net` looks at the photos; `chosen` are the options model and engine of `inspect` that give the same network.
        Whoever opened the folder before can change nothing any more: `check` says so.
        """
        self.home, self.net, self.chosen = home, net, chosen
        self.lock = _LOCKS.setdefault(home.resolve(), threading.RLock())  # a page may ask for two things at once
        self.version, self.done = 0, {}
        self._leave_photo()
        self._opened = secrets.token_hex(16)
        with self.lock:  # another tab may be in the middle of something
            write_atomically(home / _OPENED, self._opened)
            self.session = self._load()

    def _leave_photo(self) -> None:
        self.sight: Sight | None = None
        self.line: int | None = None
        self.ends: list[tuple[float, float]] = []

    @property
    def chosen_photo(self) -> str | None:
        """Name of the open photo."""
        return self.sight.name if self.sight else None

    def check(self) -> None:
        """Raise CrackutilsError where somebody has opened the folder since, or it is gone."""
        file = self.home / _OPENED
        if not file.is_file() or file.read_text("utf-8") != self._opened:
            why = "These photos were opened in another tab, or removed"
            raise CrackutilsError(f"{why}. Go on there, or reload this page.")

    def add(self, files: Iterable[tuple[Path, str]]) -> list[str]:
        """Copy files, each a path and the user's name for it, and return what could not be taken, in words.

        A session file brings its photos and corrections, and replaces what lies here. A name that is there already gets
        a number.
        """
        problems = []
        for path, name in files:
            try:
                if name.lower().endswith(".zip"):
                    self._open_session(path)
                else:
                    target = self._place(name)
                    _check_photo(path)
                    shutil.copyfile(path, target)
                    self.session.photos[target.name] = target
            except ImageError as error:
                problems.append(f"{name} {error}, so it is left out.")
            except (CrackutilsError, OSError, ValueError) as error:
                problems.append(f"{name}: {error}")
        self.save()
        return problems

    def _open_session(self, file: Path) -> None:
        """Replace all that lies here by a session; one that cannot be read leaves it as it is."""
        fresh = self.home / f"session-{secrets.token_hex(4)}"
        session = read_session(file, fresh)
        self.check()
        self._leave_photo()
        self.done = {}
        for other in self.home.iterdir():
            if other not in (fresh, self.home / _OPENED):
                shutil.rmtree(other) if other.is_dir() else other.unlink()
        self.session = session

    def _place(self, name: str) -> Path:
        """Return a free file for a photo, in the folder of photos whatever its name is."""
        clean = as_text(Path(name.replace("\\", "/")).name).replace("/", "_").replace(":", "_") or "photo"
        folder, stem, ending = self.home / "photos", Path(clean).stem, Path(clean).suffix
        folder.mkdir(exist_ok=True)
        names = itertools.chain([clean], (f"{stem} ({k}){ending}" for k in itertools.count(2)))
        places = (folder / folder_of(text) for text in names)
        # a session's photos lie elsewhere, but have their names too
        return next(place for place in places if not place.exists() and place.name not in self.session.photos)

    def save(self) -> None:
        """Write the state without the photos, so that another server goes on from it."""
        self.check()
        session, photos = self.session, []
        for name, file in session.photos.items():
            edits, brush = self.edits_of(name), None
            if edits.brush is not None:
                brush = f"brushes/{hashlib.sha256(np.ascontiguousarray(edits.brush)).hexdigest()[:32]}.npy"
                if not (self.home / brush).is_file():
                    save_array(self.home / brush, edits.brush)
            photos.append({"name": name, "file": str(file.relative_to(self.home)), "brush": brush} | edits.row)
        state = {name: getattr(session, name) for name in SETTINGS} | {"photos": photos}
        write_atomically(self.home / _STATE, json.dumps(state))

    def _load(self) -> Session:
        if not (self.home / _STATE).is_file():
            return Session()
        state = json.loads((self.home / _STATE).read_text("utf-8"))
        session = Session(**{name: state.get(name) for name in SETTINGS})
        for row in state["photos"]:
            session.photos[row["name"]] = self.home / row["file"]
            brush = np.load(self.home / row["brush"], mmap_mode="c") if row["brush"] else None
            session.edits[row["name"]] = Edits.from_row(row, brush)
        return session

    def remove(self, name: str) -> None:
        """Take a photo, with its corrections and results, off the desk and the disk."""
        if self.chosen_photo == name:
            self._leave_photo()
        self.session.photos.pop(name).unlink(missing_ok=True)
        self.session.edits.pop(name, None)
        shutil.rmtree(self.home / "report" / "photos" / folder_of(name), ignore_errors=True)
        self.save()

    def clear(self) -> None:
        """Remove all photos and results from the disk."""
        self._leave_photo()
        self.done = {}
        shutil.rmtree(self.home, ignore_errors=True)
        write_atomically(self.home / _OPENED, self._opened)
        self.session = Session()

    def scale_of(self, name: str) -> float | None:
        """Return millimetres per pixel of a photo, None where unknown."""
        return self.edits_of(name).mm_per_pixel or self.session.mm_per_pixel

    def set_scale(self, value: float | None, everywhere: bool) -> None:
        """Set millimetres per pixel of the photo on the desk, or of all photos; None takes it back."""
        if value is not None and not 1e-6 <= value <= 1e6:
            raise CrackutilsError(f"{value} mm per pixel is out of range. Give the millimetres that a pixel shows.")
        if everywhere:
            self.session.mm_per_pixel = value
            self.session.edits = {name: replace(one, mm_per_pixel=None) for name, one in self.session.edits.items()}
        else:
            name = self._sight().name
            self.session.edits[name] = replace(self.edits_of(name), mm_per_pixel=value)
        self.save()

    def set_threshold(self, value: float) -> None:
        """Set the probability at which a crack begins, between 0 and 1, and measure again."""
        self.session.threshold = value
        if self.sight:
            self.measure()
        self.save()

    def set_limit(self, value: float | None, exposure: str | None = None) -> None:
        """Set the largest allowed width in millimetres, or by an exposure class; None or empty means without."""
        self.session.limit_mm, self.session.exposure = choose_limit(value, exposure or None)[0], exposure or None
        self.save()

    def edits_of(self, name: str) -> Edits:
        """Return the corrections of a photo."""
        return self.session.edits.get(name, Edits())

    def edit(self, **changes: Any) -> None:
        """Change the corrections of the photo on the desk, measure again, and save."""
        name = self._sight().name
        self.session.edits[name] = replace(self.edits_of(name), **changes)
        self.measure()
        self.save()

    def _sight(self) -> Sight:
        if self.sight is None:
            raise CrackutilsError("No photo is open. Add photos, or choose one.")
        return self.sight

    def open(self, name: str) -> None:
        """Put a photo on the desk: the network looks at it, unless it has.

        Raises CrackutilsError for one that cannot be used. It leaves the desk, unless it has corrections.
        """
        try:
            image, _, note = decode_image(self.session.photos[name])
            seen = cached_map(image, self.net, self.home / "report" / "photos" / folder_of(name))
        except UNUSABLE as error:
            why = describe_unusable(error)
            if self.edits_of(name).corrected or self.edits_of(name).mm_per_pixel:
                raise CrackutilsError(f"{name} {why}. Choose another photo.") from error
            self.remove(name)
            raise CrackutilsError(f"{name} {why}, so it is left out.") from error
        found = self._find(name, image, seen)
        self._leave_photo()
        self.sight, self.version = Sight(name, image, seen, *found, note), self.version + 1

    def _find(self, name: str, image: np.ndarray, seen: CrackMap) -> tuple[np.ndarray, pd.DataFrame, list[Piece]]:
        """Return `find_cracks` of a photo; the session remembers the numbers."""
        edits = self.edits_of(name)
        found = find_cracks(image, seen, self.session.threshold, edits)
        self.session.edits[name] = replace(edits, numbers=found[1].attrs["numbers"])
        return found

    def open_first(self, names: Iterable[str], problems: Iterable[str] = ()) -> None:
        """Open the first photo that can be used; CrackutilsError says why those before it cannot, besides problems."""
        problems = list(problems)
        for name in names:
            try:
                self.open(name)
                break
            except CrackutilsError as error:
                problems.append(str(error))
        if problems:
            rest = f" And {len(problems) - _TOLD:,} more." if len(problems) > _TOLD else ""
            raise CrackutilsError(" ".join(problems[:_TOLD]) + rest)

    def measure(self) -> None:
        """Find and measure the cracks of the photo on the desk again; the chosen line stays so if it is still there."""
        sight = self._sight()
        sight.mask, sight.cracks, sight.pieces = self._find(sight.name, sight.image, sight.seen)
        self.line, self.version = self.line if self.line in self.lines() else None, self.version + 1

    def preview(self, threshold: float) -> np.ndarray:
        """Return the photo with what a threshold finds tinted, uint8 (h, w, 3): fast, at the picture's size."""
        sight, picture = self._sight(), self.plain()
        thick = cv2.dilate(sight.seen.pixels, np.ones((math.ceil(1 / sight.shrink),) * 2))  # keeps thin lines
        mask = crack_mask(cv2.resize(thick, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST), threshold)
        picture[mask] = (230, 159, 0)
        return picture

    def picture(self) -> np.ndarray:
        """Return the photo with its cracks, the chosen line and `ends` marked, uint8 (h, w, 3), `LONGEST` pixels."""
        sight, limit = self._sight(), self._limit()
        numbered = list_cracks(join_shares(sight.cracks, sight.pieces, limit), _NUMBERED)
        scale = self.scale_of(sight.name)
        picture = draw_overlay(sight.image, sight.mask, sight.pieces, LONGEST, scale, numbered, limit)
        for mark in sight.rejected.values():
            draw_cross(picture, mark[:2], sight.shrink, cv2.MARKER_TILTED_CROSS)
        if self.line:
            own = [piece.points for piece in sight.pieces if piece.crack == self.line]
            own = own or [np.array([self._place_of(self.line)])]
            highlight(picture, own, sight.shrink, self.lines()[self.line])
        for end in self.ends:
            draw_cross(picture, end, sight.shrink, cv2.MARKER_CROSS)
        return picture

    def _limit(self) -> float | None:
        """Return the limit of width in pixels of the photo on the desk, None where limit or scale is unknown."""
        scale, limit = self.scale_of(self._sight().name), self.session.limit_mm
        return limit / scale if limit and scale else None

    def plain(self) -> np.ndarray:
        """Return the photo without anything drawn, of the same size as `picture`."""
        sight = self._sight()
        wide, high = (max(1, round(n * sight.shrink)) for n in sight.image.shape[1::-1])
        return cv2.resize(sight.image, (wide, high), interpolation=cv2.INTER_AREA)

    def tinted(self) -> np.ndarray:
        """Return the photo with the probability of each pixel over it, uint8 (h, w, 3), of the same size."""
        return tint_overlay(self.plain(), self._sight().seen.pixels)

    def lines(self) -> dict[int, str]:
        """Return the names of the lines of the photo on the desk by number: the number, and what is no crack."""
        sight = self._sight()
        names = {line: str(line) for line in sight.cracks["crack"].tolist()}
        names |= {line: f"{line} ({mark[2]})" for line, mark in sight.marks.items() if mark[2] != MARKS[0]}
        return dict(sorted(names.items()))

    def line_at(self, x: float, y: float) -> int | None:
        """Return the number of the line nearest to a point of the page's picture, None where none is near."""
        sight, at = self._sight(), self.point_at(x, y)
        lines = [(piece.crack, piece.points) for piece in sight.pieces]
        lines += [(line, np.array([mark[:2]])) for line, mark in sight.rejected.items()]
        far, line = min(((np.hypot(*(points - at).T).min(), line) for line, points in lines), default=(math.inf, 0))
        return line if far <= _NEAR / sight.shrink else None

    def _place_of(self, line: int) -> tuple[float, float]:
        """Return a point of a line, by which a mark finds it again."""
        if mark := self._sight().marks.get(line):
            return mark[:2]
        points = next(piece.points for piece in self._sight().pieces if piece.crack == line)
        x, y = map(float, points[len(points) // 2])
        return x, y

    def mark(self, line: int, kind: str | None) -> None:
        """Say what a line is, one of `session.MARKS`; None takes its marks back."""
        old, marks = self._sight().marks.get(line), self.edits_of(self._sight().name).marks
        new = [(*self._place_of(line), kind)] if kind else []
        self.edit(marks=(*(mark for mark in marks if old is None or mark not in old[3]), *new))

    def brush(self, strokes: np.ndarray, kind: str) -> None:
        """Add to the mask, or erase from it, where strokes, bool (h, w) of the page's picture, are."""
        sight = self._sight()
        before, (h, w) = self.edits_of(sight.name).brush, sight.mask.shape
        brush = np.zeros((h, w), np.uint8) if before is None else before.copy()
        brush[cv2.resize(strokes.astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST) > 0] = _BRUSHES[kind]
        self.edit(brush=brush)

    def draw(self, points: Sequence[tuple[float, float]], width: float, kind: str) -> None:
        """Add to the mask, or erase from it, a line through points of the photo, x and y, some pixels wide."""
        sight = self._sight()
        if len(points) < 2:
            raise CrackutilsError("A line needs at least two points. Write x, y; x, y.")
        strokes = np.zeros(sight.mask.shape, np.uint8)
        line = np.round(points).astype(np.int32).clip(-(2**15), 2**15)
        cv2.polylines(strokes, [line], False, 1, max(1, round(width)))
        self.brush(strokes > 0, kind)

    def point_at(self, x: float, y: float) -> tuple[float, float]:
        """Return the point of the photo at a point of the page's picture."""
        shrink = self._sight().shrink
        return (x + 0.5) / shrink - 0.5, (y + 0.5) / shrink - 0.5

    def describe_ends(self) -> str:
        """Return how exact a scale from `ends` is, empty for less than two points."""
        if len(self.ends) != 2 or not (far := math.dist(*self.ends)):
            return ""
        return f"{far:,.0f} pixels apart: an error of 1 pixel changes the scale by {1 / far:.2%}"

    def scale_between(self, length: float | None) -> float:
        """Return millimetres per pixel from `ends` and their distance in millimetres."""
        if len(self.ends) != 2:
            raise CrackutilsError("A scale needs two points. Click on them, or write x, y; x, y.")
        found = scale_of_points(*self.ends, length or 0.0)
        return float(f"{found:.5g}")  # as the page shows it: leaving its field must not change it

    def scale_from_marker(self, side: float | None) -> tuple[float, str]:
        """Return millimetres per pixel from a marker in the photo, its side in millimetres, and how well, in words."""
        found = scale_of_marker(self._sight().image, side or 0.0)
        told = f"Marker {', '.join(map(str, found.ids))}: {found.mm_per_pixel:.4g} mm per pixel"
        return float(f"{found.mm_per_pixel:.5g}"), "; ".join(filter(None, [told, describe_marker(found)]))

    def describe(self, line: int) -> str:
        """Return what is known of a line, as Markdown."""
        sight, name = self._sight(), self.lines()[line]
        if line in sight.rejected:
            return f"**Line {name}**: rejected by you. *not marked* takes this back."
        row, scale = sight.cracks.set_index("crack").loc[line], self.scale_of(sight.name)
        unit, factor = ("mm", scale) if scale else ("px", 1.0)
        told = [f"**Crack {name}**: length {row['length'] * factor:,.1f} {unit}, pieces: {row['pieces']:.0f}"]
        names = {"mean": "mean", "P10": "p10", "P50": "p50", "P90": "p90", "largest": "most"}
        widths = ", ".join(f"{title} {row[f'width_{name}'] * factor:.2f}" for title, name in names.items())
        told.append(f"width ({unit}): " + (widths if pd.notna(row["width_mean"]) else "cannot be measured"))
        told += [f"only an upper bound along {row['at_most']:.0%} of what is measured"] if row["at_most"] > 0 else []
        return "  \n".join(told)

    def summary(self) -> str:
        """Return what was found in the photo on the desk, as Markdown."""
        sight = self._sight()
        scale, lost = self.scale_of(sight.name), len(sight.rejected)
        unit, factor = ("mm", scale) if scale else ("px", 1.0)
        h, w = sight.image.shape[:2]
        told = [f"{w:,} x {h:,} pixels, " + (f"{scale:.4g} mm per pixel" if scale else "no scale")]
        told.append(f"cracks: {len(sight.cracks)}, total length {sight.cracks['length'].sum() * factor:,.0f} {unit}")
        if limit := self._limit():
            wider = (join_shares(sight.cracks, sight.pieces, limit)["over_limit"] > 0).sum()
            told.append(f"wider than {self.session.limit_mm:g} mm in places: {wider}")
        told += [f"rejected by you (x in the picture): {lost}"] if lost else []
        return "  \n".join(filter(None, [*told, sight.cracks.attrs["note"], sight.note]))

    def table(self) -> pd.DataFrame:
        """Return a row per crack of the photo on the desk, in millimetres where the scale is known, else in pixels."""
        sight = self._sight()
        scale = self.scale_of(sight.name)
        unit, factor = ("mm", scale) if scale else ("px", 1.0)
        rows = join_shares(sight.cracks, sight.pieces, limit := self._limit())
        cracks = rows[["crack"]].copy()
        for title, name in (("length", "length"), ("mean width", "width_mean"), ("widest", "width_most")):
            cracks[f"{title} ({unit})"] = (rows[name].to_numpy(float) * factor).round(2)
        cracks["at most"] = [f"{share:.0%}" if share else "" for share in rows["at_most"].fillna(0)]
        if limit:
            shares = [f"! {share:.1%}".replace(" 0.0", " <0.1") if share > 0 else "" for share in rows["over_limit"]]
            cracks[f"over {self.session.limit_mm:g} mm"] = shares
            cracks["not known"] = [f"{share:.0%}" if share else "" for share in rows["over_unknown"]]
        return cracks

    def crop(self, line: int) -> np.ndarray:
        """Return the picture of one line with its surroundings, uint8 (h, w, 3), from the photo at full size."""
        sight = self._sight()
        own = [piece for piece in sight.pieces if piece.crack == line]
        points = np.concatenate([piece.points for piece in own] or [[self._place_of(line)]])
        around = _AROUND if own else 4 * _AROUND
        left, top = np.maximum(0, points.min(0).astype(int) - around)
        right, low = points.max(0).astype(int) + around + 1
        own = [replace(piece, points=piece.points - (left, top)) for piece in own]
        part = sight.image[top:low, left:right]
        return draw_overlay(part, part[..., 0] < 0, own, LONGEST, self.scale_of(sight.name), limit=self._limit())

    def report(self, exif: bool = True) -> list[Path]:
        """Inspect all photos, and return the files to hand on: report, tables, drawings, and all in one archive.

        Without `exif` they leave out camera, date and place of the photos.
        """
        if not self.session.photos:
            raise CrackutilsError("There are no photos. Add some first.")
        out = self.home / "report"
        inspect([], out, session=self.session, force=True, exif=exif, **self.chosen)
        self.save()  # the session has the numbers of photos that were not open yet
        files = [out / name for name in ("report.html", "cracks.xlsx", "cracks.csv", "cracks.geojson", "cracks.dxf")]
        files += [out / "coco.json"]
        with replacing_file(all_files := self.home / "inspection.zip") as part, zipfile.ZipFile(part, "w") as archive:
            for file in [*files, out / "photos.csv", out / "tiles.csv"]:
                archive.write(file, file.name, zipfile.ZIP_DEFLATED)
            for name in self.session.photos:
                for picture in ("mask.png", "overlay.jpg"):
                    if (file := out / "photos" / folder_of(name) / picture).is_file():
                        archive.write(file, f"photos/{folder_of(name).as_posix()}/{picture}")
        return self._hand_on([*files, all_files])

    def _hand_on(self, files: list[Path]) -> list[Path]:
        others = {file: at for file, at in self.done.items() if file not in files}
        self.done = dict.fromkeys(files, time.time_ns()) | others
        return files

    def write(self) -> Path:
        """Write the session file, and return it."""
        if not self.session.photos:
            raise CrackutilsError("There are no photos. Add some first.")
        write_session(self.session, file := self.home / "session.zip")
        return self._hand_on([file])[0]


def _check_photo(file: Path) -> None:
    """Raise ImageError for a file that does not begin as a photo; other damage shows when it is opened."""
    try:
        with Image.open(file, "r", READ):
            pass
    except Exception:  # whatever Pillow's parsers run into
        decode_image(file)  # says it in words


def remove_old(home: Path) -> None:
    """Remove folders in `home`, desks or uploads, that nobody has used for a week."""
    for folder in home.glob("*"):
        if folder.is_dir() and time.time() - folder.stat().st_mtime > _KEPT:
            shutil.rmtree(folder, ignore_errors=True)
