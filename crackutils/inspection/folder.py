"""Find cracks in whole photos: where they are, how long and how wide, as pictures, tables and a report to mail."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import PIL
from PIL import Image

from crackutils import config
from crackutils.files import progress, hash_sources, save_array, write_atomically
from crackutils.images import DECODING, FORMATS, ImageError, read_image
from crackutils.inspection.calibration import SCORES, calibrate_threshold, read_tile_labels
from crackutils.inspection.drawing import draw_overlay
from crackutils.inspection.lines import COLUMNS, centre_lines, measure_cracks
from crackutils.inspection.mask import crack_mask
from crackutils.inspection.report import LISTED, write_report
from crackutils.inspection.tiling import Detector, cell_logits, crack_map, load_detector, tile_probabilities

_CODE = hash_sources(Path(__file__).parent)
_LARGE, _SMALL = 2000, 240  # pixels, longest sides of pictures
_LEAST = 64  # pixels, shorter side of a photo
_PICTURES = ("overlay", "thumbnail")
_UNREAD = (".heic", ".heif", ".dng", ".nef", ".cr2", ".cr3", ".arw")  # what cameras write and Pillow does not read
_MARK = ".inspection"  # a file in a folder that this wrote, with what was inspected
_UNUSABLE = (ImageError, MemoryError, cv2.error)
_LENGTHS = ["length", "width_mean", "width_most"]


def inspect(
    photos: Sequence[str | Path],
    out: str | Path,
    model: str | Path | None = None,
    engine: str = config.ENGINES[0],
    threshold: float | None = None,
    mm_per_pixel: float | None = None,
    labels: str | Path | None = None,
) -> pd.DataFrame:
    """Inspect photos and write what was found: pictures, tables, and a report in one file.

    `out` gets photos.csv (a row per photo), cracks.csv (a row per crack), tiles.csv (a row per tile of 256x256 pixels),
    report.html, which needs no other file, and photos/, a folder per photo with overlay.jpg and map.npy (what
    `crack_map` returns). After a kill the same call goes on; another threshold or scale reads the kept maps.

    Args:
        photos: files, and folders, whose pictures count, with those of folders in them.
        out: folder to write; it must be empty, or hold an earlier inspection.
        model: a run of notebook 08 or of `adapt`; None takes what `adaptation.best_cells` names.
        engine: one of `config.ENGINES`.
        threshold: probability from which a cell is crack-like, above 0 and below 1; None takes what `labels` speak for,
            or 0.5.
        mm_per_pixel: of all photos; lengths are told in millimetres then.
        labels: CSV file as `tile_labels` reads it, of tiles of some of the photos; they choose the threshold.

    Returns:
        A row per photo, the longest cracks first, those that could not be read last: file, problem, wide, high
        (pixels), tiles, tiles_cracked, p_crack (of its surest tile), cracks, length, area, width_most (of cracks,
        pixels or millimetres).

    Raises:
        CrackutilsError: no such photo, nothing to inspect, values out of range, an `out` that holds something else,
            labels that cannot be used.
    """
    if threshold is not None and not 0 < threshold < 1:
        raise config.CrackutilsError(f"threshold={threshold} is no probability between 0 and 1.")
    if threshold is not None and labels is not None:
        raise config.CrackutilsError("Give a threshold or labels that choose it, not both.")
    known = None if labels is None else read_tile_labels(labels)
    if mm_per_pixel is not None and not 1e-6 <= mm_per_pixel <= 1e6:
        raise config.CrackutilsError(f"mm_per_pixel={mm_per_pixel} is no such length; give millimetres per pixel.")
    out, photos = Path(out), [Path(photo) for photo in photos]
    files = _files(photos, out)
    _claim(out, photos)
    if model is None:
        from crackutils.detector.runs import find_detector_run

        model = find_detector_run()
        print(f"model: {config.display_path(model)}")
    net = load_detector(Path(model), engine)
    found, chosen = {}, ""
    try:
        if known is not None:
            threshold, chosen = _chosen(files, out, net, known)
        bound = threshold or 0.5
        for name in progress(files, "inspecting", len(files), "photo"):
            found[_shown(name)] = one = inspect_photo(files[name], out / "photos" / name, net, bound, mm_per_pixel)
            one["home"] = out / "photos" / name
        table = _write(out, found, bound, mm_per_pixel, Path(model), chosen)
    except OSError as error:
        raise config.CrackutilsError(
            f"{out} cannot be written ({error.strerror}: {error.filename}); make room, or close what is open, and run"
            " the same command again: nothing is lost."
        ) from error
    return table


def _files(photos: list[Path], out: Path) -> dict[str, Path]:
    """Return the files to inspect by a name of their own: their path in the folder given, or in what holds all given.

    In folders, files that are no pictures by their names are passed over, and so is what begins with a dot.
    """
    files, passed, own, homes = [], 0, os.path.abspath(out), []

    def refuse(error: OSError) -> None:
        raise config.CrackutilsError(
            f"{error.filename} cannot be listed ({error.strerror}); allow it, or leave it out."
        )

    for path in (Path(os.path.abspath(photo)) for photo in photos):
        if not os.path.lexists(path):
            raise config.CrackutilsError(f"{path} does not exist; give photos, or folders of photos.")
        homes.append(path if path.is_dir() else path.parent)
        files += [] if path.is_dir() else [path]
        for place, folders, names in os.walk(path, onerror=refuse) if path.is_dir() else ():
            folders[:] = sorted(n for n in folders if not n.startswith(".") and os.path.join(place, n) != own)
            for name in sorted(n for n in names if not n.startswith(".")):
                known = Path(name).suffix.lower() in (*FORMATS, *_UNREAD)
                files, passed = files + [Path(place, name)] * known, passed + (not known)
    if not files:
        raise config.CrackutilsError(
            f"There is no picture in {', '.join(map(str, photos))}; give photos, or folders of them."
        )
    if passed:
        print(f"not looked at, no pictures by their names: {passed:,}")
    try:
        home = Path(os.path.commonpath(homes))
    except ValueError:  # two drives
        raise config.CrackutilsError(
            "The photos lie on several drives; inspect those of each drive by themselves."
        ) from None
    return {file.relative_to(home).as_posix(): file for file in dict.fromkeys(files)}


def _shown(name: str) -> str:
    """Return a name that any file can hold; bytes that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _claim(out: Path, photos: list[Path]) -> None:
    """Refuse a folder that holds something else than an inspection of these photos."""
    mark, asked = out / _MARK, sorted(_shown(os.path.abspath(photo)) for photo in photos)
    try:
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not mark.is_file())):
            raise config.CrackutilsError(
                f"{out} exists and is no earlier inspection; give a folder that does not exist."
            )
        kept = out / "tiles.csv"  # as any spreadsheet may have saved it
        if kept.is_file() and "crack" in re.findall(r"\w+", kept.read_text("utf-8", "replace").split("\n", 1)[0]):
            raise config.CrackutilsError(f"{kept} has labels of yours, which would be lost; move it elsewhere.")
        if mark.is_file() and (before := mark.read_text("utf-8").splitlines()) != asked:
            raise config.CrackutilsError(
                f"{out} is an inspection of {', '.join(before)}; give another folder for these."
            )
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(mark, "\n".join(asked))
    except OSError as error:
        raise config.CrackutilsError(f"{out} cannot be written ({error.strerror}); give another folder.") from error


def _chosen(files: dict[str, Path], out: Path, net: Detector, labels: pd.DataFrame) -> tuple[float, str]:
    """Return the threshold that labelled tiles of some photos speak for, and a sentence that says how good it is."""
    wanted, parts = set(labels["photo"]), []
    some = [name for name in files if _shown(name) in wanted]
    for name in progress(some, "calibrating", len(some), "photo"):
        with contextlib.suppress(OSError, *_UNUSABLE):  # told when its turn comes
            same, read = _state(files[name], net), partial(_photo, files[name])
            parts.append(
                tile_probabilities(_seen(out / "photos" / name, same, net, read), net.share).assign(file=_shown(name))
            )
    found = pd.concat(parts) if parts else pd.DataFrame(columns=["file", "row", "col", "p_crack"])
    told = calibrate_threshold(found, labels)
    if passed := len(labels) - told["n"]:
        print(f"labels of no tile of these photos: {passed:,}")
    text = f"chosen on {told['n']:,} labelled tiles of {told['photos']}"
    if told["f1"] is not None:
        said = {name: "undefined" if told[name] is None else f"{told[name]:.2f}" for name in SCORES}
        text += (
            f"; of tiles of photos that did not choose it, precision is {said['precision']} and recall {said['recall']}"
            f" (at 0.5 {said['precision_before']} and {said['recall_before']})"
        )
    print(f"threshold {told['threshold']:.3g}, {text}")
    return told["threshold"], text


def _state(file: Path, net: Detector) -> dict[str, Any]:
    """Return what a kept map depends on."""
    state = file.stat()
    same = {"model": net.key, "file": _shown(str(file)), "bytes": state.st_size, "modified": state.st_mtime_ns}
    return same | {"code": _CODE, "decoding": f"{DECODING} {PIL.__version__}"}


def _seen(home: Path, same: dict[str, Any], net: Detector, read: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the map of a photo, kept where nothing has changed since."""
    kept, known = home / "map.npy", home / "map.json"
    try:
        if json.loads(known.read_text("utf-8")) == same:
            return np.load(kept)
    except (OSError, ValueError, EOFError):  # none, or cut short when the power went
        pass
    image = read()
    home.mkdir(parents=True, exist_ok=True)
    known.unlink(missing_ok=True)
    seen = crack_map(image, net)
    save_array(kept, seen)
    write_atomically(known, json.dumps(same))
    return seen


def inspect_photo(file: Path, home: Path, net: Detector, threshold: float, mm: float | None) -> dict[str, Any]:
    """Return what is found in one photo, or what an earlier call found where nothing has changed since."""
    try:
        same = _state(file, net)
    except OSError as error:
        return {"problem": f"cannot be read ({error.strerror})", "cracks": [], "tiles": []}
    asked = same | {"threshold": threshold, "mm_per_pixel": mm}
    record, pictures = home / "found.json", [home / f"{name}.jpg" for name in _PICTURES]
    try:
        before = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):  # none, or cut short when the power went
        before = {}
    if before.get("asked") == asked and all(picture.is_file() for picture in pictures):
        return before
    record.unlink(missing_ok=True)  # pictures and numbers must not come from two calls
    found: dict[str, Any] = {"asked": asked, "problem": "", "cracks": [], "tiles": []}
    try:
        image = _photo(file)
        seen = _seen(home, same, net, lambda: image)
        odds = cell_logits(seen)
        mask = crack_mask(image, odds, threshold)
        line = centre_lines(mask)
        lines = measure_cracks(mask, line, odds, threshold)
        # a scale bar cannot be read on the small one
        drawn = [draw_overlay(image, odds, line, threshold, _LARGE, mm, lines.head(LISTED))]
        drawn.append(draw_overlay(image, odds, line, threshold, _SMALL))
    except _UNUSABLE as error:
        found["problem"] = str(error) if isinstance(error, ImageError) else "needs more memory than there is"
        return found  # not kept: the next call tries again
    for picture, pixels in zip(pictures, drawn, strict=True):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "JPEG", quality=85)
        write_atomically(picture, content.getvalue())
    unit = mm or 1.0
    lines[_LENGTHS] *= unit
    lines["area"] *= unit**2
    found |= {"wide": image.shape[1], "high": image.shape[0], "cracks": lines.round(4).to_dict("records")}
    found["tiles"] = tile_probabilities(seen, net.share).to_dict("records")
    write_atomically(record, json.dumps(found))
    return found


def _photo(file: Path) -> np.ndarray:
    """Read a photo, or raise `ImageError` with what to do about it."""
    if file.suffix.lower() in _UNREAD:
        raise ImageError("is a raw or HEIC photo, which is not read here; save it as JPEG")
    with warnings.catch_warnings():  # of 89 megapixels and more; those of 179 and more are refused
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = read_image(file)
    if min(image.shape[:2]) < _LEAST:
        raise ImageError(f"is only {image.shape[1]} x {image.shape[0]} pixels; {_LEAST} are the least")
    return image


def _write(
    out: Path, found: dict[str, dict[str, Any]], threshold: float, mm: float | None, model: Path, chosen: str
) -> pd.DataFrame:
    """Write tables and report, and return the table of photos."""
    unit = "mm" if mm else "px"
    rows, lines, parts = [], [], []
    for name, one in found.items():
        each, cracked = one["tiles"], sum(t["p_crack"] >= threshold for t in one["tiles"])
        row = {"file": name, "problem": one["problem"], "wide": one.get("wide"), "high": one.get("high")}
        row |= {
            "tiles": len(each),
            "tiles_cracked": cracked,
            "p_crack": max((t["p_crack"] for t in each), default=None),
        }
        row |= {"cracks": len(one["cracks"])}
        row |= {f"length_{unit}": sum(c["length"] for c in one["cracks"])}
        row |= {f"area_{unit}2": sum(c["area"] for c in one["cracks"])}
        row |= {f"width_most_{unit}": max((c["width_most"] for c in one["cracks"]), default=0.0)}
        rows.append(row)
        lines += [{"file": name, "crack": k + 1} | c for k, c in enumerate(one["cracks"])]
        parts += [{"file": name} | t for t in each]
    table = pd.DataFrame(rows)
    table["broken"] = table["problem"] != ""
    table[["wide", "high"]] = table[["wide", "high"]].astype("Int64")  # whole numbers, even where some are missing
    order = ["broken", f"length_{unit}", "p_crack", "file"]
    table = table.sort_values(order, ascending=[True, False, False, True], ignore_index=True).drop(columns="broken")
    named = {name: f"{name}_{unit}" for name in _LENGTHS} | {"area": f"area_{unit}2"}
    columns = ["file", "crack", *COLUMNS]
    for file, content in (
        ("photos.csv", table),
        ("cracks.csv", pd.DataFrame(lines, columns=columns).rename(columns=named)),
        ("tiles.csv", pd.DataFrame(parts, columns=["file", "row", "col", "p_crack"])),
    ):
        write_atomically(out / file, content.round(4).to_csv(index=False))
    write_atomically(out / "report.html", write_report(table, found, threshold, mm, model, chosen))
    return table
