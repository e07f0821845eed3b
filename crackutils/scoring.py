"""Score a folder of images with a trained model into a CSV file."""

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import PIL

from crackutils import models, training
from crackutils.config import CrackutilsError, display_path
from crackutils.files import explain_write_errors, lock_file, progress, sha256, walk_files, write_atomically
from crackutils.images import DECODING, read_image
from crackutils.inference.engines import Engine, program_file, run_stream, start_engine
from crackutils.runs import find_best_run, read_recipe
from crackutils.stages import Recipe


def score(folder: str | Path, out: str | Path, model: str | Path | None = None, engine: str = "litert") -> None:
    """Write the crack probability of every image below a folder to the CSV file `out`: file, p_crack, problem.

    Files that are no images are listed with the reason. Names that begin with a dot and links to folders are skipped.
    Each image counts as one patch: it is squeezed to the model's square input, so cut large photos into patches first.
    Rows are kept in a hidden file beside `out` until all are there; after a kill the same call continues from them.
    `model` is a run folder, and None the run that `runs.find_best_run` names; `engine` is one of `config.ENGINES`.
    CrackutilsError means no such folder, or one that cannot be listed; no files in it; no model; an engine that is not
    installed; an `out` that cannot be written, or that another process is writing.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise CrackutilsError(f"{folder} is not a folder. Give one that holds images.")
    if out.is_dir():
        raise CrackutilsError(f"{out} is a folder. Give the name of a CSV file.")
    # a pipe would block; a link that leads nowhere is listed, with its problem
    found = (file for file in walk_files(folder, out) if file.is_file() or file.is_symlink())
    if not (names := [file.relative_to(folder).as_posix() for file in found]):
        raise CrackutilsError(f"{folder} holds no files. Give a folder that holds images.")
    if model is None:
        model = find_best_run()
        print(f"model: {display_path(model)}")
    running, recipe, key = load_scorer(Path(model), engine)
    key = hashlib.sha256(f"{key} {folder.resolve()}".encode(errors="surrogateescape")).hexdigest()[:8]
    part = out.with_name(f".{out.name}.{key}.part")
    with _writing(out):
        rows = _score_files(running, recipe.size, folder, names, part)
        write_atomically(out, b"".join(_line(row) for row in [("file", "p_crack", "problem"), *rows]))
        part.unlink()
    cracks = sum(p != "" and float(p) >= 0.5 for _, p, _ in rows)
    problems = sum(p == "" for _, p, _ in rows)
    unusable = f", {problems:,} could not be read (see the column problem)" if problems else ""
    print(f"{cracks:,} of {len(names):,} files show a crack at the threshold 0.5{unusable} -> {out}")


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
    done = _read_part(part, folder, names)
    rows = [row for row, _ in done]
    if done:
        print(f"{len(done):,} of {len(names):,} files were scored before")
    write_atomically(part, "".join(json.dumps(entry) + "\n" for entry in done))  # without what was cut short
    scored = run_stream(running, names[len(done) :], lambda name: read_image(folder / name, size))
    with open(part, "a", encoding="utf-8") as handle, contextlib.closing(scored):
        for name, chances, problem in progress(scored, "scoring", len(names) - len(done), "file"):
            # of the only unit, or of the second of two classes
            rows.append((name, "" if chances is None else str(chances[-1]), " ".join(problem.split())))
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


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Keep other processes from writing `out`, and explain where it cannot be written."""
    lock, remedy = out.with_name(f".{out.name}.lock"), "Close it where it is open, or give another file"
    with explain_write_errors(out, f"{remedy}; scored rows are kept."):
        out.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(lock, f"Another process is writing {out}. Wait for it, or give another file."):
            try:
                yield
            finally:
                with contextlib.suppress(PermissionError):  # on Windows the lock removes its file by itself
                    lock.unlink(missing_ok=True)


def _line(row: tuple[str, ...]) -> bytes:
    # the csv module leaves a carriage return without quotes, and then does not read it again
    quoted = ('"' + f.replace('"', '""') + '"' if any(c in f for c in ',"\r\n') else f for f in row)
    return (",".join(quoted) + "\n").encode("utf-8", "surrogateescape")
