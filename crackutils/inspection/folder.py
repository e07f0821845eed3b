"""Inspection of a folder of photos: selection of files, output folder, and tables over all photos."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from crackutils import config
from crackutils.config import CrackutilsError
from crackutils.detector.runs import SHIPPED
from crackutils.files import as_text, name_some, progress, write_atomically
from crackutils.folders import find_pictures, print_left_out
from crackutils.images import read_image
from crackutils.inspection.calibration import calibrate_threshold, describe_calibration, match_photos, read_tile_labels
from crackutils.inspection.dxf import write_dxf
from crackutils.inspection.exif import FACTS
from crackutils.inspection.export import SHARES, write_coco, write_geojson
from crackutils.inspection.limit import choose_limit
from crackutils.inspection.measure import COLUMNS, LENGTHS
from crackutils.inspection.photo import UNUSABLE, Options, cached_map, folder_of, resume_photo
from crackutils.inspection.prepare import choose_scales, open_session, refuse_sizes, settle_options
from crackutils.inspection.report import render_report
from crackutils.inspection.session import Edits, Session
from crackutils.inspection.tiling import Detector, load_detector, tile_probabilities
from crackutils.inspection.truth import compare_masks, find_masks, read_mask, summarize_truth
from crackutils.userfiles.drives import identify_folders, refuse_lost
from crackutils.userfiles.write import refuse_foreign, remove_own, table_bytes, workbook_bytes, write_own, writing

_MARK = ".inspection"
_WRITTEN = ("photos.csv", "cracks.csv", "tiles.csv", "cracks.xlsx", "cracks.geojson", "cracks.dxf", "coco.json")
_WRITTEN += ("truth.csv", "report.html")
_UNSCALED = "A limit in millimetres needs a scale. Give --mm-per-pixel too."
Ahead = Callable[[Path, Detector, list[tuple[Path, Path, Options]]], None]  # of the run, and files, folders, options
# columns of photos.csv: whole numbers, also where some are missing, and numbers that must not be rounded
COUNTS, _EXACT = ("wide", "high", "tiles", "tiles_cracked", "cracks"), ("mm_per_pixel", *FACTS[2:])


def inspect(
    photos: Sequence[str | Path],
    out: str | Path,
    model: str | Path | None = None,
    engine: str = config.ENGINES[0],
    threshold: float | None = None,
    mm_per_pixel: float | None = None,
    labels: str | Path | None = None,
    limit_mm: float | None = None,
    truth: str | Path | None = None,
    force: bool = False,
    exposure: str | None = None,
    exif: bool = True,
    session: str | Path | Session | None = None,
    marker_mm: float | None = None,
    ahead: Ahead | None = None,
) -> pd.DataFrame:
    """Inspect photos, files and folders with all below, and write pictures, tables, and a report in one file.

    `out` gets photos.csv, cracks.csv, both also in cracks.xlsx, tiles.csv, cracks.geojson, cracks.dxf, coco.json,
    report.html and a folder per photo; the same call continues after a kill, one with more photos adds these, and
    another threshold or scale reads the cached maps. `model` is a run of notebook 08 or of `adapt`, by default the
    network of the package. The threshold of pixels is between 0 and 1, by default 0.5; `labels`, a file for
    `read_tile_labels`, choose it. Lengths are in millimetres if a scale is given, else in pixels. With a limit, or an
    exposure class for `choose_limit`, what is wider is marked and its share of the length reported; with `truth`, a
    folder for `find_masks`, the found masks are compared with these, in truth.csv. `force` replaces what the user has
    changed in `out`, and drops photos that are not given now. Camera, date and place of a photo are taken from its
    EXIF, unless `exif` is false.

    A session, or a file for `read_session`, takes the place of `photos`: a file is unpacked into session/ in `out`. Its
    corrections, scales, threshold and limit count; options given here win over what it has for all photos. The
    numbers of the cracks are written into it. With `marker_mm`, each photo's scale is that of its ArUco markers with
    sides of so many millimetres, `mm_per_pixel` where it has none. Scales, a limit, EXIF and a session add columns.
    `ahead` may do the photos before, as `resume_photo` does, elsewhere; what it leaves is done here.

    Returns a row per photo, the longest cracks first, unusable photos last and without measures; p_crack is that of its
    most crack-like tile. Raises CrackutilsError for no photos, values out of range, a limit without a scale, an `out`
    that holds something of the user's or an inspection of other photos, labels or masks of no use, a session together
    with photos, where some photos have a scale and others none, and, after all is written, if no photo can be used.
    """
    if threshold is not None and not 0 < threshold < 1:
        raise CrackutilsError(f"threshold={threshold} is out of range. Give a probability above 0 and below 1.")
    if threshold is not None and labels is not None:
        raise CrackutilsError("Both a threshold and labels were given. Give one of them: labels choose the threshold.")
    if mm_per_pixel is not None and not 1e-6 <= mm_per_pixel <= 1e6:
        raise CrackutilsError(f"mm_per_pixel={mm_per_pixel} is out of range. Give millimetres per pixel above 0.")
    limit_mm, rule = choose_limit(limit_mm, exposure)
    if bool(photos) == (session is not None):
        raise CrackutilsError("Both photos and a session were given. Give one of them: a session holds its photos.")
    if marker_mm is not None and not 0 < marker_mm < math.inf:
        raise CrackutilsError(f"marker_mm={marker_mm} is out of range. Give the side of the marker in millimetres.")
    if limit_mm is not None and mm_per_pixel is marker_mm is session is None:
        raise CrackutilsError(_UNSCALED)
    known = None if labels is None else read_tile_labels(labels)
    of_all = "session" if mm_per_pixel is None else "given"  # the source of the scale for all photos
    out, photos, edits = Path(out), [Path(photo) for photo in photos], {}
    files = _find_photos(photos, out) if photos else {}
    home = Path(os.path.realpath(out))
    if inside := [file for file in files.values() if home in Path(os.path.realpath(file.parent), file.name).parents]:
        raise CrackutilsError(f"Photos lie in {out} ({name_some(inside)}). Give another folder as --out.")
    with writing(out):
        _refuse_folder(out, force)
        if session is not None:
            given = isinstance(session, Session)
            opened = session if given else open_session(Path(session), out / "session", out / _MARK, force)
            files, edits = opened.photos, {name: opened.edits.get(name, Edits()) for name in opened.photos}
            settled = settle_options(opened, threshold=threshold, mm_per_pixel=mm_per_pixel, limit_mm=limit_mm)
            exposure = opened.exposure if limit_mm is None else exposure
            threshold, mm_per_pixel, limit_mm = settled if known is None else [None, *settled[1:]]
            rule = rule or choose_limit(None if exposure else limit_mm, exposure)[1]
        masks = {} if truth is None else find_masks(files, Path(truth))
        refuse_sizes(files, masks)
        true = {os.path.realpath(mask) for mask in masks.values()}
        if beside := [name for name, file in files.items() if os.path.realpath(file) in true]:
            print_left_out({"true masks": beside})
            files = {name: file for name, file in files.items() if os.path.realpath(file) not in true}
        unpacked = (out / "session").rglob("*") if isinstance(session, str | Path) else ()  # also of an earlier session
        _claim_folder(out, files, [*masks.values(), *unpacked], force)
        folders = {name: out / "photos" / folder_of(name) for name in files}
        scales, notes, sources = choose_scales(files, edits, mm_per_pixel, marker_mm, folders)
        unit = "mm" if marker_mm is not None or any(scales.values()) else "px"  # without one, no photo can be read
        if limit_mm is not None and unit == "px":
            raise CrackutilsError(_UNSCALED)
        before = identify_folders(files.values())
        model = Path(model or SHIPPED)
        net, found, counts = load_detector(model, engine), {}, {}
        threshold, chosen = (threshold or 0.5, "") if known is None else _choose_threshold(files, out, net, known)
        options = {name: Options(threshold, scales[name], limit_mm, edits.get(name), exif) for name in files}
        if ahead is not None:
            ahead(model, net, [(files[name], folders[name], options[name]) for name in files])
        for name in progress(files, "inspecting", len(files), "photo"):
            one = found[name] = resume_photo(files[name], folders[name], net, options[name], force)
            if one["problem"]:
                refuse_lost(files[name], before)
            one["problem"] = "; ".join(filter(None, [one["problem"], notes.get(name)]))
            if unit == "mm" and "wide" in one:
                if scales[name] is None:
                    raise CrackutilsError(f"{name} became readable only now, and has no scale. Run the command again.")
                one |= {"mm_per_pixel": float(f"{scales[name]:.6g}"), "scale_from": sources.get(name, of_all)}
            if "numbers" in one:  # a session goes on with them
                opened.edits[name] = replace(edits[name], numbers=one["numbers"])
            if name in masks and "wide" in one:
                shape, own = (one["high"], one["wide"]), folders[name] / "mask.png"
                counts[name] = compare_masks(read_mask(own, shape, False), read_mask(masks[name], shape))
        table = _write_tables(out, found, threshold, unit, limit_mm, exif)
        write_own(out / "cracks.geojson", write_geojson(found, unit))
        write_own(out / "cracks.dxf", write_dxf(found, scales))
        write_own(out / "coco.json", write_coco(found))
        if counts:
            write_own(out / "truth.csv", table_bytes(summarize_truth(counts).round(4)))
        else:  # an earlier one is of other masks
            remove_own(out / "truth.csv")
        facts = {"model": config.display_path(model), "threshold": f"{threshold:.6g}", "chosen": chosen}
        facts |= {"limit_mm": limit_mm, "exposure": exposure, "rule": rule}
        page = render_report(table, found, out / "photos", unit, **facts)
        write_own(out / "report.html", page)
    if table["wide"].isna().all():
        why = f"None of {len(table):,} photos could be used ({name_some(table['file'][:1])} {table['problem'][0]})"
        raise CrackutilsError(f"{why}. Repair or replace them; {out / 'report.html'} has the reason for each.")
    return table


def _find_photos(photos: list[Path], out: Path) -> dict[str, Path]:
    """Return the files to inspect, each once and none in `out`, by their path in what holds all given."""
    homes, files, left_out = [], {}, {}
    for path in (Path(os.path.abspath(photo)) for photo in photos):
        if not os.path.lexists(path):
            raise CrackutilsError(f"{path} does not exist. Give photos, or folders of photos.")
        homes.append(path if path.is_dir() else path.parent)
        if any((place / name).is_file() for place in (path, *path.parents) for name in (_MARK, "found.json")):
            below, others = [], {"written by this package": [path.name]}
        else:
            below, others = find_pictures(path, out) if path.is_dir() else ([path], {})
        for file in below:
            first = files.setdefault(os.path.realpath(file), file)
            if first != file:
                others.setdefault("links to a photo that is inspected already", []).append(file.name)
        for reason, names in others.items():
            left_out.setdefault(reason, []).extend(names)
    print_left_out(left_out)
    if not files:
        raise CrackutilsError(f"There is no picture in {name_some(photos)}. Give photos, or folders of photos.")
    try:
        home = Path(os.path.commonpath(homes))
    except ValueError:  # two drives
        raise CrackutilsError("The photos lie on several drives. Inspect each drive separately.") from None
    return {as_text(file.relative_to(home).as_posix()): file for file in files.values()}


def _refuse_folder(out: Path, force: bool) -> None:
    """Refuse an `out` that is not a folder, or holds files of the user."""
    if os.path.lexists(out) and not out.is_dir():
        raise CrackutilsError(f"{out} is a file or a broken link. Give a new folder.")
    held = f".{out.absolute().name}.lock"  # of `writing`
    if out.exists() and any(path.name != held for path in out.iterdir()) and not ((out / _MARK).is_file() or force):
        why = f"{out} exists and is not an earlier inspection"
        raise CrackutilsError(f"{why}. Give a new folder, or write into this one with --force.")
    for name in _WRITTEN:
        refuse_foreign(out / name, force)


def _claim_folder(out: Path, files: dict[str, Path], others: Sequence[Path], force: bool) -> None:
    """Mark `out` as an inspection of these photos; refuse to lose results of an earlier one, but for those of others.

    If names of photos change because more folders are given, their results are moved to the new names.
    """
    mark, before = out / _MARK, {}
    if mark.is_file():
        with contextlib.suppress(ValueError, AttributeError):  # of an older version
            before = {str(file): name for name, file in json.loads(mark.read_text("utf-8")).items()}
    here = {os.path.realpath(file) for file in (*files.values(), *others)}
    rest = [file for file in before if os.path.realpath(file) not in here and os.path.lexists(file)]
    if rest and not force:
        why = f"{out} has results of photos that are not given now: {len(rest):,} ({name_some(rest)})"
        raise CrackutilsError(f"{why}. Give them too, give another folder, or drop their results with --force.")
    for name, file in files.items():
        old, new = (out / "photos" / folder_of(one) for one in (before.get(str(file), name), name))
        if old != new and old.is_dir() and not new.exists():
            new.parent.mkdir(parents=True, exist_ok=True)
            os.replace(old, new)
    write_atomically(mark, json.dumps({name: str(file) for name, file in files.items()}))


def _choose_threshold(files: dict[str, Path], out: Path, net: Detector, labels: pd.DataFrame) -> tuple[float, str]:
    """Return the threshold that labelled tiles of some photos choose, and its scores as text."""
    labels = match_photos(labels, files)
    parts, some = [], [name for name in files if name in set(labels["photo"])]
    for name in progress(some, "calibrating", len(some), "photo"):
        with contextlib.suppress(OSError, *UNUSABLE):  # reported later
            seen = cached_map(read_image(files[name]), net, out / "photos" / folder_of(name))
            parts.append(tile_probabilities(seen.cells, net.share).assign(file=name))
    parts = parts or [pd.DataFrame(columns=["file", "row", "col", "p_crack"])]
    calibration = calibrate_threshold(pd.concat(parts), labels)
    if rest := len(labels) - calibration["n"]:
        print(f"labels without a tile of these photos: {rest:,}")
    text = describe_calibration(calibration)
    print(f"threshold {calibration['threshold']:.6g}, {text}")
    return calibration["threshold"], text


def _write_tables(
    out: Path, found: dict[str, dict[str, Any]], threshold: float, unit: str, limit_mm: float | None, exif: bool
) -> pd.DataFrame:
    """Write photos.csv, cracks.csv, tiles.csv and cracks.xlsx, and return the table of photos."""
    photos, cracks, tiles = [], [], []
    corrected = any("corrected" in one for one in found.values())
    columns = ["file", *COLUMNS, *["confirmed"] * corrected]
    for name, one in found.items():
        p_tiles = [tile["p_crack"] for tile in one["tiles"]]
        known = pd.DataFrame(one["cracks"], columns=COLUMNS).astype(float)  # None becomes NaN
        row = {"file": name, "problem": one["problem"], "wide": one.get("wide"), "high": one.get("high")}
        row |= {"tiles": len(p_tiles), "tiles_cracked": sum(p >= threshold for p in p_tiles)}
        row |= {"p_crack": max(p_tiles, default=None), "cracks": len(known), f"length_{unit}": known["length"].sum()}
        row |= {f"area_{unit}2": known["area"].sum(), f"width_most_{unit}": known["width_most"].max()}
        row |= {name: one.get(name) for name in ("mm_per_pixel", "scale_from") if unit == "mm"}
        if corrected:
            row |= {"corrected": one.get("corrected", False), "rejected": len(one.get("rejected", []))}
        if limit_mm is not None:
            row |= {"limit_mm": limit_mm if "wide" in one else None} | {name: one.get(name) for name in SHARES}
        if exif:
            row |= {name: one.get("exif", {}).get(name) for name in FACTS}
        photos.append(row)
        cracks += [{"file": name} | crack for crack in one["cracks"]]
        tiles += [{"file": name} | tile for tile in one["tiles"]]
    table = pd.DataFrame(photos)
    kinds = dict.fromkeys(COUNTS, "Int64") | dict.fromkeys(table.columns.intersection([*_EXACT, *SHARES]), float)
    table, order = table.astype(kinds), ["unusable", f"length_{unit}", "p_crack", "file"]
    table["unusable"] = table["wide"].isna()
    table.loc[table["unusable"], [*COUNTS, f"length_{unit}", f"area_{unit}2"]] = None
    table = table.sort_values(order, ascending=[True, False, False, True], ignore_index=True).drop(columns="unusable")
    units = {name: f"{name}_{unit}" for name in LENGTHS} | {"area": f"area_{unit}2"}
    columns += SHARES if limit_mm is not None else ()
    tables = {"photos": table, "cracks": pd.DataFrame(cracks, columns=columns).rename(columns=units)}
    tables |= {"tiles": pd.DataFrame(tiles, columns=["file", "row", "col", "p_crack"])}
    tables["cracks"] = tables["cracks"].astype({"x_most": "Int64", "y_most": "Int64"})
    for name, content in tables.items():
        tables[name] = content.round(dict.fromkeys(content.columns.difference(_EXACT), 4))
        write_own(out / f"{name}.csv", table_bytes(tables[name]))
    write_own(out / "cracks.xlsx", workbook_bytes({name: tables[name] for name in ("photos", "cracks")}))
    return table
