"""Score any number of images with a trained model, without starting TensorFlow where its program was made before."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import PIL

from crackutils import config
from crackutils.files import progress, sha256
from crackutils.images import DECODING, read_image
from crackutils.inference.engines import Engine, flipped, program_file, run_stream, start_engine
from crackutils.recipes import Recipe
from crackutils.runs import find_best_run, read_recipe

_HEADER = ("file", "p_crack", "problem")
_STATE = ("bytes", "modified")  # further columns while scoring goes on: a file that has changed is scored again


def score(folder: str | Path, out: str | Path, model: str | Path | None = None, engine: str = "litert") -> None:
    """Write the crack probability of every image below a folder to a CSV file: file, p_crack, problem.

    Files that are no images are listed with the reason. Names that begin with a dot are passed over, and so are links
    to folders. Each image counts as one patch: it is squeezed to the model's square input, so cut large photos into
    patches first. What is scored is kept in a hidden file beside `out` until all is done: after a kill the same call
    goes on from there.

    Args:
        folder: where the images lie, in folders or not.
        out: the CSV file; one that exists is replaced at the end.
        model: a run folder; None takes the run that `results.best_run` names.
        engine: one of `config.ENGINES`.

    Raises:
        CrackutilsError: no such folder, or one that cannot be listed; no files in it; no model; an engine that is not
            to be had; an `out` that cannot be written, or that another process is writing.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise config.CrackutilsError(f"{folder} is not a folder; give one that holds images.")
    if out.is_dir():
        raise config.CrackutilsError(f"{out} is a folder; give the name of a CSV file.")
    total = sum(1 for _ in _walk(folder, out))
    if not total:
        raise config.CrackutilsError(f"{folder} holds no files.")
    if model is None:
        model = find_best_run()
        print(f"model: {config.display_path(model)}")
    running, recipe, key = load_scorer(Path(model), engine)
    key = hashlib.sha256(f"{key} {folder.resolve()}".encode(errors="surrogateescape")).hexdigest()[:8]
    part = out.with_name(f".{out.name}.{key}.part")
    with _locked(part, out) as handle:
        files, done, cracks, problems = _resume(handle, folder, _walk(folder, out))
        if done:
            print(f"{done:,} of {total:,} files were scored before, going on")
        else:
            handle.write(_line(*_HEADER, *_STATE))
        found = run_stream(running, files, lambda name: read_image(folder / name, recipe.size))
        with contextlib.closing(found):
            for name, chances, problem in progress(found, "scoring", total - done, "file"):
                p = None if chances is None else chances[-1]  # the only unit, or the second of two classes
                cracks, problems, done = cracks + (p is not None and p >= 0.5), problems + (p is None), done + 1
                told = " ".join(problem.split())
                handle.write(_line(name, "" if p is None else str(p), told, *_state(folder / name)))
                if done % 64 == 0:
                    handle.flush()
        _finish(handle, out)
    part.unlink()
    unusable = f", {problems:,} could not be read (see the column problem)" if problems else ""
    print(f"{cracks:,} of {total:,} files show a crack at the threshold 0.5{unusable} -> {out}")


def load_scorer(folder: Path, engine: str) -> tuple[Engine, Recipe, str]:
    """Return what runs the model of a finished run on RGB 0-255, its recipe, and a key for model and engine.

    The engine gives the probability of a crack, or those of both classes; the flips of the recipe are done by it.
    """
    recipe, start = read_recipe(folder)
    weights = folder / "model" / "model.weights.h5"
    if not weights.is_file():
        raise config.CrackutilsError(
            f"{folder / 'model'} holds no model.weights.h5; run the notebook again with FORCE=1."
        )
    key = hashlib.sha256(f"{sha256(weights)} {start} {recipe.as_dict()}".encode()).hexdigest()

    def build() -> Any:
        from crackutils import models, training

        with models.in_float32():
            return models.without_augmentation(training.load(folder)[0])

    file = program_file(f"{recipe.name}-{recipe.size}-{key[:12]}")
    running = start_engine(engine, file, build)
    key = f"{key} {file.name} {running.facts} {DECODING} {PIL.__version__}"
    return (flipped(running) if recipe.flips else running), recipe, key


def _walk(folder: Path, out: Path) -> Iterator[str]:
    """Yield the files below a folder, relative to it and with slashes, in an order that does not change."""

    def refuse(error: OSError) -> None:
        raise config.CrackutilsError(
            f"{error.filename} cannot be listed ({error.strerror}); allow it, or leave it out."
        )

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(place, name)
            wanted = not name.startswith(".") and path.absolute() != out.absolute()
            # a pipe would block; a link that leads nowhere is listed, with its problem
            if wanted and (path.is_file() or path.is_symlink()):
                yield path.relative_to(folder).as_posix()


def _state(file: Path) -> tuple[str, str]:
    """Return size and time of change, as text; empty where the file has gone."""
    try:
        found = file.stat()
    except OSError:
        return "", ""
    return str(found.st_size), str(found.st_mtime_ns)


def _line(*fields: str) -> bytes:
    # the csv module leaves a carriage return without quotes, and then does not read it again
    quoted = ('"' + f.replace('"', '""') + '"' if any(c in f for c in ',"\r\n') else f for f in fields)
    return (",".join(quoted) + "\n").encode("utf-8", "surrogateescape")


@contextlib.contextmanager
def _locked(part: Path, out: Path) -> Iterator[BinaryIO]:
    """Open the unfinished file, to read and to append, for this process alone."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle = open(part, "ab+")  # noqa: SIM115 - closed below
    except OSError as error:
        raise config.CrackutilsError(f"{out} cannot be written ({error.strerror}); give another file.") from error
    with handle:
        try:
            if os.name == "nt":
                import msvcrt

                handle.seek(1 << 40)  # a byte that is never written
                msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise config.CrackutilsError(
                f"Another process is writing {out}; wait for it, or give another file."
            ) from error
        yield handle


def _rows(handle: BinaryIO) -> Iterator[tuple[list[str], int]]:
    """Yield an empty row for the header and then the whole rows, each with where it ends; a row cut short ends it."""
    handle.seek(0)
    end, last = 0, b""

    def lines() -> Iterator[str]:
        nonlocal end, last
        for last in handle:
            end += len(last)
            yield last.decode("utf-8", "surrogateescape")

    rows = csv.reader(lines(), strict=True)
    with contextlib.suppress(csv.Error):
        if next(rows, None) == [*_HEADER, *_STATE] and last.endswith(b"\n"):
            yield [], end
            for row in rows:
                if len(row) != len(_HEADER + _STATE) or not last.endswith(b"\n"):
                    return
                yield row, end


def _resume(handle: BinaryIO, folder: Path, names: Iterator[str]) -> tuple[Iterator[str], int, int, int]:
    """Keep the rows of an unfinished file that are whole, and of files that are as they were.

    Returns:
        The files left, and of the rows kept: how many, how many show a crack, how many have a problem.
    """
    good, done, cracks, problems = 0, 0, 0, 0
    for row, end in _rows(handle):
        if row:
            name = next(names, None)
            if name != row[0] or list(_state(folder / name)) != row[3:]:
                names = names if name is None else chain([name], names)
                break
            done, cracks = done + 1, cracks + (row[1] != "" and float(row[1]) >= 0.5)
            problems += row[2] != ""
        good = end
    handle.truncate(good if done else 0)
    handle.seek(0, os.SEEK_END)
    return names, done, cracks, problems


def _finish(handle: BinaryIO, out: Path) -> None:
    """Write the columns that count to `out`, atomically."""
    handle.flush()
    new = out.with_name(f".{out.name}.new")
    try:
        with open(new, "wb") as finished:
            finished.write(_line(*_HEADER))
            for row, _ in _rows(handle):
                if row:
                    finished.write(_line(*row[:3]))
        os.replace(new, out)
    except OSError as error:
        raise config.CrackutilsError(
            f"{out} cannot be written ({error.strerror}); close it where it is open, and run the same command again:"
            " nothing is lost."
        ) from error
