"""Score pictures on a Ray cluster into a folder of Parquet parts, a part for each block of files."""

import contextlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from crackutils.config import CrackutilsError
from crackutils.files import as_text, name_some, write_atomically
from crackutils.scale.cluster import LOCAL, Model, deal, import_ray, load_once, pack_model
from crackutils.scale.sources import Block, cut_blocks, find_photos, is_remote, open_place, read_place
from crackutils.scoring import choose_model, load_scorer, score_rows, summarize
from crackutils.userfiles.drives import identify_folders, refuse_lost
from crackutils.userfiles.write import writing

_PART = re.compile(r"part-\d{6,}-[0-9a-f]{16}\.parquet")


def score(
    source: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    engine: str = "litert",
    force: bool = False,
    ray: str = LOCAL,
) -> None:
    """Write the crack probability of every picture of a source into Parquet parts, on a Ray cluster.

    The rows of all parts, by name, are those of `scoring.score` in the same order: file, p_crack (float32, missing
    where a picture cannot be read) and problem. `source` is one for `find_photos`; `out` is a folder, or an address
    that fsspec can write. `ray` is the address of a cluster, or `LOCAL` for one on this machine. A part is written
    whole under a name that its files, the model and the engine decide, so the same call continues after a kill and
    writes nothing twice. `force` replaces parts of other files or of another model. Raises CrackutilsError as
    `scoring.score` does, for an `out` that holds something else, and where the cluster or a network fails.
    """
    import_ray()
    source, out = str(source), str(out)
    photos = find_photos(source, out)
    run = choose_model(model)
    running, _, key = load_scorer(run, engine)
    blocks = {f"part-{block.number:06d}-{block.key}.parquet": block for block in cut_blocks(photos, key)}
    with contextlib.nullcontext() if is_remote(out) else writing(Path(out)):
        if there := _list_parts(out, blocks, force):
            done = sum(len(blocks[name]) for name in there)
            print(f"{done:,} of {len(photos.names):,} files were scored before")
        if todo := [block for name, block in blocks.items() if name not in there]:
            place = out if is_remote(out) else Path(out).resolve()
            arguments = {"model": pack_model(run, running), "key": key, "out": place}
            deal(ray, _Scorer, arguments, todo, "scoring", "file")
        cracked, unread, problems = _count_rows(out, list(blocks), len(photos.names))
    print(summarize(cracked, len(photos.names), unread, problems), "->", out)


class _Scorer:
    """Scores one block after the other on one core; the model is loaded once."""

    def __init__(self, model: Model, key: str, out: str | Path) -> None:
        running, recipe, mine = load_scorer(model.unpack(), model.engine)
        self.running, self.size = load_once(running, mine, key), recipe.size
        self.out, self.folders = out, {}

    def __call__(self, block: Block) -> None:
        local = [Path(place) for _, place in block.places if not is_remote(place)]
        self.folders = identify_folders(local) | self.folders  # as they were when they were first seen
        with ThreadPoolExecutor(16) as pool:  # addresses are read while others are computed
            files = ((name, pool.submit(read_place, place).result) for name, place in block.places)
            rows = []
            for (_, place), row in zip(block.places, score_rows(self.running, self.size, files), strict=True):
                if not row[1] and not is_remote(place):  # at once: later, the folder may be back
                    refuse_lost(Path(place), self.folders)
                rows.append(row)
        _write_part(self.out, f"part-{block.number:06d}-{block.key}.parquet", rows)


def _write_part(out: str | Path, name: str, rows: list[tuple[str, str, str]]) -> None:
    """Write the rows of a block whole or not at all; where two actors do, both write the same."""
    import pyarrow
    import pyarrow.parquet

    names, chances, problems = zip(*rows, strict=True)
    columns = [pyarrow.array([as_text(name) for name in names], pyarrow.string())]
    columns += [pyarrow.array([float(p) if p else None for p in chances], pyarrow.float32())]
    table = pyarrow.table([*columns, pyarrow.array(problems, pyarrow.string())], names=["file", "p_crack", "problem"])
    content = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, content)
    if isinstance(out, Path):
        write_atomically(out / name, content.getvalue().to_pybytes())
    else:
        files, path = open_place(f"{out.rstrip('/')}/{name}")
        files.pipe_file(path, content.getvalue().to_pybytes())  # such stores show a file once it is whole


def _list_parts(out: str, wanted: dict[str, Block], force: bool) -> list[str]:
    """Return the parts that are there already, and remove what is left of others.

    Raises CrackutilsError, unless `force`, for parts of other files or of another model, and for what is no part.
    """
    files, path = open_place(out)
    if files.isfile(path):
        raise CrackutilsError(f"{out} is a file. Give a folder for the parts.")
    try:
        found = {entry.rstrip("/").rsplit("/", 1)[-1]: entry for entry in files.ls(path, detail=False)}
    except FileNotFoundError:
        return []
    halves = [name for name in found if name.startswith(".part-") and name.endswith(".part")]  # of killed actors
    others = [name for name in found if _PART.fullmatch(name) and name not in wanted]
    strange = [name for name in found if not _PART.fullmatch(name) and name not in halves]
    if strange and not force:
        why = f"{out} holds files that were not written by this command ({name_some(strange)})"
        raise CrackutilsError(f"{why}. Give a folder that does not exist, or write into this one with --force.")
    if others and not force:
        why = f"{out} holds results of other files or of another model ({len(others):,} parts)"
        raise CrackutilsError(f"{why}. Give another folder, or replace them with --force.")
    for name in halves + others:
        files.rm_file(found[name])
    return [name for name in wanted if name in found]


def _count_rows(out: str, parts: list[str], total: int) -> tuple[int, int, bool]:
    """Return how many rows of the parts show a crack and how many are unread, and whether one has a problem.

    Raises CrackutilsError where the rows are not as many as the files.
    """
    from pyarrow.dataset import dataset, field

    files, path = open_place(out)
    files.invalidate_cache()
    table = dataset([f"{path.rstrip('/')}/{name}" for name in parts], filesystem=files, format="parquet")
    if (rows := table.count_rows()) != total:
        raise CrackutilsError(f"{out} holds {rows:,} rows of {total:,} files. Remove its parts, and run again.")
    tests = (field("p_crack") >= 0.5, field("p_crack").is_null(), field("problem") != "")
    cracked, unread, noted = (table.count_rows(filter=test) for test in tests)
    return cracked, unread, noted > 0
