"""Inspect photos on a Ray cluster: each actor does its photos as the plain command does, which then finds them done."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import pandas as pd

from crackutils.config import CrackutilsError
from crackutils.files import explain_write_errors, progress, write_atomically
from crackutils.images import ImageError
from crackutils.inspection import folder
from crackutils.inspection.photo import Options, resume_photo
from crackutils.inspection.tiling import Detector, load_detector
from crackutils.scale.cluster import LOCAL, Model, deal, import_ray, load_once, pack_model
from crackutils.scale.sources import find_photos, is_remote, place_of, read_place
from crackutils.userfiles.entries import leads_outside
from crackutils.userfiles.write import refuse_foreign, write_own

_TABLES = ("photos", "cracks", "tiles")
_PHOTOS = 4  # of a block


def inspect(
    photos: Sequence[str], out: str | Path, ray: str = LOCAL, force: bool = False, **options: Any
) -> pd.DataFrame:
    """Inspect photos as `inspection.folder.inspect` does, on a Ray cluster, and write its tables as Parquet too.

    Besides files and folders, `photos` may be lists, tables and addresses for `find_photos`; photos at an address are
    first copied into a folder beside `out`. That, `out` and the photos must lie on a disk that all nodes share, under
    the same path. `ray` is the address of a cluster, or `LOCAL` for one on this machine. Raises CrackutilsError as
    `folder.inspect` does, for a listed photo that is not there, and where the cluster fails.
    """
    import_ray()
    out, given = Path(out).absolute(), []
    for table in _TABLES:
        refuse_foreign(out / f"{table}.parquet", force)
    for photo in photos:
        if is_remote(photo) or PurePosixPath(photo).suffix.lower() in (".txt", ".parquet"):
            given += _copy_photos(photo, out.with_name(f"{out.name}-photos"))
        else:
            given.append(Path(photo))
    try:
        return folder.inspect(given, out, force=force, ahead=partial(_inspect_ahead, ray, force), **options)
    finally:  # also if no photo could be used
        for table in _TABLES if (out / "photos.csv").is_file() else ():
            content = pd.read_csv(out / f"{table}.csv", encoding="utf-8-sig")
            whole = dict.fromkeys(content.columns.intersection(folder.COUNTS), "Int64")  # whole, also with empty cells
            write_own(out / f"{table}.parquet", content.astype(whole).to_parquet())


def _copy_photos(source: str, home: Path) -> list[Path]:
    """Return the photos of a list or an address as files, those at an address copied into a folder, if not before."""
    photos = find_photos(source, str(home))
    places = [place_of(photos.root, name) for name in photos.names]
    if outside := [place for place in places if is_remote(place) and leads_outside(place.split("://", 1)[1])]:
        raise CrackutilsError(f"{outside[0]} leads outside its folder. Take it out of the list.")
    files = {place: home / place.split("://", 1)[1] if is_remote(place) else Path(place) for place in places}
    missing = {place: file for place, file in files.items() if is_remote(place) and not file.is_file()}
    with explain_write_errors(home), ThreadPoolExecutor(16) as pool:
        copied = pool.map(_copy_photo, missing, missing.values())
        for _ in progress(copied, "copying", len(missing), "photo") if missing else ():
            pass
    return [*files.values()]


def _copy_photo(place: str, file: Path) -> None:
    try:
        content = read_place(place)
    except ImageError as error:
        raise CrackutilsError(f"{place} {error}. Take it out of the list.") from error
    write_atomically(file, content if isinstance(content, bytes) else b"")  # raw photos are refused by their names


def _inspect_ahead(ray: str, force: bool, run: Path, net: Detector, jobs: Sequence[tuple[Path, Path, Options]]) -> None:
    blocks = [jobs[begin : begin + _PHOTOS] for begin in range(0, len(jobs), _PHOTOS)]
    arguments = {"model": pack_model(run, net.engine), "key": net.key, "force": force}
    deal(ray, _Inspector, arguments, blocks, "inspecting on the cluster", "photo")


class _Inspector:
    """Inspects one block of photos after the other on one core; the model is loaded once."""

    def __init__(self, model: Model, key: str, force: bool) -> None:
        net = load_detector(model.unpack(), model.engine)
        self.net, self.force = replace(net, engine=load_once(net.engine, net.key, key)), force
        cv2.setNumThreads(1)  # the other cores have actors of their own

    def __call__(self, jobs: Sequence[tuple[Path, Path, Options]]) -> None:
        for file, place, options in jobs:
            resume_photo(file, place, self.net, options, self.force)
