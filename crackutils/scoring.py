"""Score a folder of images with a trained model into a CSV file."""

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import PIL

from crackutils import models, training
from crackutils.config import CrackutilsError, display_path
from crackutils.files import as_text, progress, sha256, write_atomically
from crackutils.folders import find_pictures, print_left_out
from crackutils.images import DECODING, decode_image
from crackutils.inference.engines import Engine, program_file, run_stream, start_engine
from crackutils.runs import find_best_run, read_recipe
from crackutils.stages import Recipe
from crackutils.userfiles.drives import identify_folders, refuse_lost
from crackutils.userfiles.write import refuse_foreign, table_bytes, write_own, writing

_COLUMNS = ("file", "p_crack", "problem")


def score(
    folder: str | Path, out: str | Path, model: str | Path | None = None, engine: str = "litert", force: bool = False
) -> None:
    """Write the crack probability of every picture below a folder to the CSV file `out`: file, p_crack, problem.

    Which files are pictures `folders.find_pictures` says; what is left out is counted. Pictures that cannot be read are
    listed with the reason. Each counts as one patch: it is squeezed to the model's square input, so cut large photos
    into patches first. Rows are kept in a hidden file beside `out` until all are there; after a kill the same call
    continues from them. `model` is a run folder, and None the run that `runs.find_best_run` names; `engine` is one of
    `config.ENGINES`; `force` replaces an `out` that is the user's. CrackutilsError means no such folder, or one that
    cannot be listed or goes away; no pictures in it; no model; an engine that is not installed; an `out` that is the
    user's, cannot be written, or is being written by another process.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise CrackutilsError(f"{folder} is not a folder. Give one that holds images.")
    if out.is_dir():
        raise CrackutilsError(f"{out} is a folder. Give the name of a CSV file.")
    refuse_foreign(out, force)
    files, left_out = find_pictures(folder, out)
    print_left_out(left_out)
    if not files:
        raise CrackutilsError(f"{folder} holds no pictures. Give a folder with pictures.")
    names = [file.relative_to(folder).as_posix() for file in files]
    running, recipe, key = load_scorer(choose_model(model), engine)
    key = hashlib.sha256(f"{key} {folder.resolve()}".encode(errors="surrogateescape")).hexdigest()[:8]
    part = out.with_name(f".{out.name}.{key}.part")
    with writing(out):
        table = pd.DataFrame(_score_files(running, recipe.size, folder, names, part), columns=list(_COLUMNS))
        write_own(out, table_bytes(table))
        part.unlink()
    p = pd.to_numeric(table["p_crack"])
    print(summarize((p >= 0.5).sum(), len(p), p.isna().sum(), (table["problem"] != "").any()), "->", out)


def choose_model(model: str | Path | None) -> Path:
    """Return the folder of the run that scores; where none is given, that of `runs.find_best_run`, and print it."""
    if model is None:
        model = find_best_run()
        print(f"model: {display_path(model)}")
    return Path(model)


def summarize(cracked: int, total: int, unread: int, problems: bool) -> str:
    """Return in one line how many pictures show a crack, and how many could not be read."""
    unusable = f", {unread:,} could not be read" if unread else ""
    unusable += " (see the column problem)" if problems else ""
    return f"{cracked:,} of {total:,} pictures show a crack at the threshold 0.5{unusable}"


def load_scorer(folder: Path, engine: str) -> tuple[Engine, Recipe, str]:
    """Return an engine that runs the model of a finished run, its recipe, and a key for model and engine.

    The engine takes RGB 0-255 and gives the probability of a crack, or those of both classes. CrackutilsError means no
    finished run, no model in it, or an engine that is not installed.
    """
    recipe, home = read_recipe(folder)[0], folder / "model"
    try:
        with zipfile.ZipFile(home / "model.keras") as parts:
            key = f"{sha256(home / 'model.weights.h5')} {parts.read('config.json').decode()}"
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        told = f"{home} holds no usable model.keras and model.weights.h5. Run its notebook again with FORCE=1."
        raise CrackutilsError(told) from error
    file = program_file(f"{recipe.name}-{recipe.size}-{hashlib.sha256(key.encode()).hexdigest()[:12]}")
    running = start_engine(engine, file, lambda: models.without_augmentation(training.load(folder)[0]))
    return running, recipe, f"{file.name} {running.facts} {DECODING} {PIL.__version__}"


def _score_files(running: Engine, size: int, folder: Path, names: list[str], part: Path) -> list[tuple[str, ...]]:
    """Return a row per file; every row goes into `part` at once, and rows that are there already are taken from it."""
    done, before = _read_part(part, folder, names), identify_folders(folder / name for name in names)
    rows = [row for row, _ in done]
    if done:
        print(f"{len(done):,} of {len(names):,} files were scored before")
    write_atomically(part, "".join(json.dumps(entry) + "\n" for entry in done))  # without what was cut short
    scored = score_rows(running, size, ((name, partial(folder.joinpath, name)) for name in names[len(done) :]))
    with open(part, "a", encoding="utf-8") as handle, contextlib.closing(scored):
        for row in progress(scored, "scoring", len(names) - len(done), "file"):
            if not row[1]:
                refuse_lost(folder / row[0], before)
            rows.append(row)
            handle.write(json.dumps((row, file_state(folder / row[0]))) + "\n")
            if len(rows) % 64 == 0:
                handle.flush()
    return rows


def score_rows(
    running: Engine, size: int, files: Iterable[tuple[str, Callable[[], Path | bytes]]]
) -> Iterator[tuple[str, str, str]]:
    """Yield name, p_crack and problem of each file in order, p_crack empty for one that cannot be read.

    Each file is a name and a function that gives what `decode_image` takes, or raises `ImageError`; `size` is the side
    of the model's input in pixels.
    """

    def read(item: tuple[str, Callable[[], Path | bytes], list[str]]) -> np.ndarray:
        picture = decode_image(item[1](), size)
        item[2].append(picture.note)
        return picture.pixels

    for (name, _, notes), chances, problem in run_stream(running, ((*file, []) for file in files), read):
        told = [problem, *notes, "" if as_text(name) == name else "its name is not UTF-8"]
        # of the only unit, or of the second of two classes
        p = "" if chances is None else str(chances[-1])
        yield name, p, "; ".join(" ".join(text.split()) for text in told if text)


def _read_part(part: Path, folder: Path, names: list[str]) -> list[tuple[tuple[str, ...], str]]:
    """Return the rows of an unfinished file, with the states of its images, up to the first cut or outdated one."""
    done = []
    with contextlib.suppress(FileNotFoundError, ValueError), open(part, encoding="utf-8") as lines:
        for name, line in zip(names, lines, strict=False):
            row, state = json.loads(line)
            if row[0] != name or state != file_state(folder / name):
                break
            done.append((tuple(row), state))
    return done


def file_state(file: Path) -> str:
    """Return size and time of change; an image that has changed since it was scored is scored again."""
    with contextlib.suppress(OSError):
        found = file.stat()
        return f"{found.st_size} {found.st_mtime_ns}"
    return ""
