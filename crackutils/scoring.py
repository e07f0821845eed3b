"""Score a folder of images with a trained model into a CSV file."""

import contextlib
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import PIL

from crackutils import models, training
from crackutils.config import CrackutilsError, display_path
from crackutils.files import as_text, progress, sha256, write_atomically
from crackutils.folders import describe_left_out, find_pictures
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
    if told := describe_left_out(left_out):
        print(told)
    if not files:
        raise CrackutilsError(f"{folder} holds no pictures. Give a folder with pictures.")
    names = [file.relative_to(folder).as_posix() for file in files]
    if model is None:
        model = find_best_run()
        print(f"model: {display_path(model)}")
    running, recipe, key = load_scorer(Path(model), engine)
    key = hashlib.sha256(f"{key} {folder.resolve()}".encode(errors="surrogateescape")).hexdigest()[:8]
    part = out.with_name(f".{out.name}.{key}.part")
    with writing(out):
        table = pd.DataFrame(_score_files(running, recipe.size, folder, names, part), columns=list(_COLUMNS))
        write_own(out, table_bytes(table))
        part.unlink()
    p = pd.to_numeric(table["p_crack"])
    unusable = f", {p.isna().sum():,} could not be read" if p.isna().any() else ""
    unusable += " (see the column problem)" if (table["problem"] != "").any() else ""
    print(f"{(p >= 0.5).sum():,} of {len(p):,} pictures show a crack at the threshold 0.5{unusable} -> {out}")


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
    done, notes, before = _read_part(part, folder, names), {}, identify_folders(folder / name for name in names)
    rows = [row for row, _ in done]
    if done:
        print(f"{len(done):,} of {len(names):,} files were scored before")
    write_atomically(part, "".join(json.dumps(entry) + "\n" for entry in done))  # without what was cut short

    def read(name: str) -> np.ndarray:
        picture = decode_image(folder / name, size)
        notes[name] = picture.note
        return picture.pixels

    scored = run_stream(running, names[len(done) :], read)
    with open(part, "a", encoding="utf-8") as handle, contextlib.closing(scored):
        for name, chances, problem in progress(scored, "scoring", len(names) - len(done), "file"):
            if problem:
                refuse_lost(folder / name, before)
            told = [problem, notes.pop(name, ""), "" if as_text(name) == name else "its name is not UTF-8"]
            # of the only unit, or of the second of two classes
            p = "" if chances is None else str(chances[-1])
            rows.append((name, p, "; ".join(" ".join(text.split()) for text in told if text)))
            handle.write(json.dumps((rows[-1], _state(folder / name))) + "\n")
            if len(rows) % 64 == 0:
                handle.flush()
    return rows


def _read_part(part: Path, folder: Path, names: list[str]) -> list[tuple[tuple[str, ...], str]]:
    """Return the rows of an unfinished file, with the states of its images, up to the first cut or outdated one."""
    done = []
    with contextlib.suppress(FileNotFoundError, ValueError), open(part, encoding="utf-8") as lines:
        for name, line in zip(names, lines, strict=False):
            row, state = json.loads(line)
            if row[0] != name or state != _state(folder / name):
                break
            done.append((tuple(row), state))
    return done


def _state(file: Path) -> str:
    """Return size and time of change; an image that has changed since it was scored is scored again."""
    with contextlib.suppress(OSError):
        found = file.stat()
        return f"{found.st_size} {found.st_mtime_ns}"
    return ""
