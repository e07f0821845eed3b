"""The split of a profile as a plain CSV file, for programs that do without this package."""

from pathlib import Path

from crackutils.config import DEFAULT_SEED, CrackutilsError
from crackutils.datasets import Dataset
from crackutils.splits.make import PARTS, make_split
from crackutils.userfiles.write import refuse_foreign, write_own, writing


def export_split(
    ds: Dataset, folder: str | Path, split: str = "", split_seed: int = DEFAULT_SEED, force: bool = False
) -> Path:
    """Write PROFILE-SPLIT-SEED.csv into a folder, and return its path: file, label, split, group, sha256.

    A row per image, in UTF-8 without a byte-order mark. label is 1 for a crack, split train, val or test; images of one
    group, -1 for none, must stay in one part. `split`, empty for that of the profile, and `split_seed` are those of
    `splits.make.make_split`; `force` replaces a file that is the user's. Raises CrackutilsError where it is, or where
    nothing can be written.
    """
    folder, split = Path(folder), split or ds.profile.split
    if folder.is_file():
        raise CrackutilsError(f"{folder} is a file. Give a folder.")
    refuse_foreign(file := folder / f"{ds.profile.name}-{split}-{split_seed}.csv", force)
    table = make_split(ds, split, split_seed).assign(sha256=ds.index["sha256"])
    with writing(file):
        write_own(file, table.to_csv(index=False, lineterminator="\n"))
    counts = ", ".join(f"{(table['split'] == part).sum():,} {part}" for part in PARTS)
    print(f"{counts} images of {ds.profile.name}, data {ds.sha256[:12]} -> {file}")
    return file
