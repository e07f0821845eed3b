"""The classes of pictures, by the names of their folders."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from crackutils.config import CLASSES, CrackutilsError
from crackutils.files import name_some
from crackutils.userfiles.names import class_of

_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "val", "valid": "val"}
_PARTS |= {"validation": "val", "dev": "val"}
_PLAIN = re.compile("crack|pos|neg|damaged|intact")  # other names, such as 1, no or UP, may mean something else
_SDNET = ("CD", "CP", "CW", "UD", "UP", "UW")  # cracked and uncracked decks, pavements and walls
_BESIDE = r"images?|pictures?|photos?|samples?|patches|tiles|concrete|walls?|decks?|pavements?|surfaces?"  # with a name
_BESIDE = re.compile(rf"^(\d+|class|label)[\s_.-]+|[\s_-]*({_BESIDE})$", re.IGNORECASE)
Folders = tuple[str, ...]  # names from FROM= down
Levels = dict[Folders, tuple[int, int]]  # which of the folders names the class, and the class


class Found(NamedTuple):
    """A picture with the folders above it."""

    path: Path
    folders: Folders


class Placed(NamedTuple):
    """A picture with its new name."""

    path: Path
    name: str  # relative to the folder of the source, as Positive/day1/x.jpg
    part: str  # train, val or test; empty for a set without a split


def place_pictures(pictures: list[Found], origin: Path, classes: str) -> tuple[list[Placed], list[str], str]:
    """Return the pictures in class folders, the pictures outside them, and a description of the classes as text.

    `classes` names the folders without and with cracks, as "uncracked:cracked", several separated by commas, if needed
    with parent folders ("a/0:a/1"); empty takes the usual names.
    Raises CrackutilsError if a class has no picture, or the names are ambiguous.
    """
    counts = Counter(found.folders for found in pictures)
    levels = _match_given(counts, classes) if classes else _match_usual(counts, origin)
    outside = ["/".join((*found.folders, found.path.name)) for found in pictures if found.folders not in levels]
    plain = classes or any(_is_plain(folders[level]) for folders, (level, _) in levels.items())
    if len({label for _, label in levels.values()}) < 2 or (outside and not plain):
        raise CrackutilsError(_explain(counts, levels, origin, classes))
    if not classes:
        _refuse_several(levels, origin)
    parts = {folders: _find_part(folders, level) for folders, (level, _) in levels.items()}
    if len(set(parts.values())) < 2 or "" in parts.values():
        parts = {}
    placed = _name_all([found for found in pictures if found.folders in levels], levels, parts)
    return placed, outside, _describe(levels, counts, parts)


def has_classes(pictures: Iterable[Found], classes: str) -> bool:
    """Return whether there are pictures in folders of both classes that `classes` names."""
    levels = _match_given({found.folders for found in pictures}, classes)
    return len({label for _, label in levels.values()}) == 2


def names_class(folders: Folders, classes: str) -> bool:
    """Return whether one of the folders is named like a class, or like a part of a split."""
    usual = any(_class_of(name) is not None or _simplify(name) in _PARTS for name in folders)
    return usual or bool(classes and _match_given({folders}, classes))


def _simplify(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _class_of(name: str) -> int | None:
    """Return the class of a usual folder name, None for other names."""
    return class_of(name) if class_of(name) is not None else class_of(_BESIDE.sub("", _BESIDE.sub("", name)))


def _is_plain(name: str) -> bool:
    return bool(_PLAIN.search(name.lower()))


def _match_given(holders: Iterable[Folders], classes: str) -> Levels:
    """Return the lowest level of folders that CLASSES names."""
    sides = [[name for name in side.replace("\\", "/").split(",") if name.strip()] for side in classes.split(":")]
    if len(sides) != 2 or not all(sides):
        raise CrackutilsError(f"CLASSES={classes} does not name two folders. Write it like CLASSES=uncracked:cracked.")
    wanted = [
        (tuple(map(_simplify, n.strip("/ ").split("/"))), label) for label, side in enumerate(sides) for n in side
    ]
    if len(dict(wanted)) < len(wanted):
        raise CrackutilsError(f"CLASSES={classes} names a folder twice. Write it like CLASSES=uncracked:cracked.")
    levels = {}
    for folders in holders:
        names = tuple(map(_simplify, folders))
        ends = [(k, label) for k in range(len(names)) for name, label in wanted if names[: k + 1][-len(name) :] == name]
        levels |= {folders: max(ends)} if ends else {}
    return levels


def _match_usual(holders: Iterable[Folders], origin: Path) -> Levels:
    """Return the uppermost level of folders that has the usual name of a class."""
    named = {
        folders: {k: label for k, name in enumerate(folders) if (label := _class_of(name)) is not None}
        for folders in holders
    }
    if len({label for f, found in named.items() for k, label in found.items() if _is_plain(f[k])}) == 2:
        named = {f: {k: label for k, label in found.items() if _is_plain(f[k])} for f, found in named.items()}
    below = defaultdict(set)
    for folders, found in named.items():
        for k in found:
            below[folders[: k + 1]] |= {label for lower, label in found.items() if lower > k}
    levels = {}
    for folders, found in named.items():
        # a folder "Cracks" with folders of both classes is not a class folder
        found = {k: label for k, label in found.items() if len(below[folders[: k + 1]]) < 2}
        found = {k: label for k, label in found.items() if _is_plain(folders[k])} or found
        if len(set(found.values())) > 1:
            remedy = "Name the class folders: CLASSES=<without cracks>:<with cracks>."
            raise CrackutilsError(f"{'/'.join(folders)} in {origin} has the names of both classes. {remedy}")
        levels |= {folders: min(found.items())} if found else {}
    return levels


def _refuse_several(levels: Levels, origin: Path) -> None:
    """Refuse class folders that may be several sets: other names side by side, or both classes in two places."""
    sets: dict[Folders, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for folders, (level, label) in levels.items():
        above = tuple(name for name in folders[:level] if _simplify(name) not in _PARTS)
        sets[above][label].add(folders[level])
    names = [sorted(set().union(*(found[label] for found in sets.values()))) for label in (0, 1)]
    whole = [above for above, found in sets.items() if all(found)]
    doubled = any(len({_simplify(name) for name in side}) > 1 for found in sets.values() for side in found)
    if not (doubled or len(whole) > 1 or (whole and len(sets) > 1)) or {*names[0], *names[1]} <= set(_SDNET):
        return
    above = min(whole or sets)
    usual = [CLASSES[k] if CLASSES[k] in side else min(side, default="...") for k, side in enumerate(sets[above])]
    one = ":".join("/".join((*above, name)) for name in usual)
    seen = sorted({"/".join(folders[: level + 1]) for folders, (level, _) in levels.items()})
    choice = f"one with CLASSES={one}, or all with CLASSES={':'.join(map(','.join, names))}"
    raise CrackutilsError(f"{origin} holds several folders of a class ({name_some(seen)}). Choose {choice}.")


def _find_part(folders: Folders, level: int) -> str:
    """Return the part of a split in folder names beside the class folder; empty for none."""
    parts = (_PARTS.get(_simplify(name), "") for k, name in enumerate(folders) if k != level)
    return next(filter(None, parts), "")


def _name_all(pictures: list[Found], levels: Levels, parts: dict[Folders, str]) -> list[Placed]:
    """Name pictures by class and the folders below it, and by the folders above it if there are several."""

    def skip_parts(folders: Folders) -> Folders:
        return tuple(name for name in folders if not parts or _simplify(name) not in _PARTS)

    above = {folders: skip_parts(folders[:level]) for folders, (level, _) in levels.items()}
    kinds = defaultdict(set)  # folders of a class side by side
    for folders, (level, label) in levels.items():
        kinds[above[folders], label].add(folders[level])
    shared = len(list(takewhile(lambda names: len(set(names)) == 1, zip(*above.values(), strict=False))))
    several = any(len({above[f] for f in levels if levels[f][1] == label}) > 1 for label in (0, 1))
    names = []
    for path, folders in pictures:
        level, label = levels[folders]
        upper = above[folders][shared:] if several else ()
        upper += (folders[level],) if len(kinds[above[folders], label]) > 1 else ()
        names.append((CLASSES[label], *upper, *skip_parts(folders[level + 1 :]), path.name))
    if parts and len(set(names)) < len(names):
        names = [(name[0], parts[found.folders], *name[1:]) for name, found in zip(names, pictures, strict=True)]
    rows = zip(pictures, names, strict=True)
    return [Placed(found.path, "/".join(name), parts.get(found.folders, "")) for found, name in rows]


def _describe(levels: Levels, counts: Counter[Folders], parts: dict[Folders, str]) -> str:
    """Return as text which folders became which class, if their names differ, and the split that came with them."""
    said, names = [], [sorted({f[k] for f, (k, label) in levels.items() if label == side}) for side in (0, 1)]
    if names != [[name] for name in CLASSES]:
        numbers = [sum(counts[f] for f, (_, label) in levels.items() if label == side) for side in (0, 1)]
        rows = zip(names, CLASSES, numbers, strict=True)
        said.append(", ".join(f"{name_some(there)} -> {name} ({number:,})" for there, name, number in rows))
    if parts:
        sizes = {part: sum(counts[f] for f in parts if parts[f] == part) for part in ("train", "val", "test")}
        said.append(f"given split: {', '.join(f'{n:,} {part}' for part, n in sizes.items() if n)}")
        said.append("SPLIT=given uses it")
    return "; ".join(said)


def _explain(counts: Counter[Folders], levels: Levels, origin: Path, classes: str) -> str:
    """Return why two classes were not found, and the remedy."""
    if not counts:
        return f"{origin} holds no pictures. Give a folder or an archive with pictures of both classes."
    seen = Counter(name for folders in counts for name in folders[-1:])
    remedy = "Name its folders: CLASSES=<without cracks>:<with cracks>."
    if not seen:
        remedy = f"Put them into two folders, {' and '.join(CLASSES)} (without and with cracks)."
        return f"{origin} holds {counts.total():,} pictures, but no class folder. {remedy}"
    if len(labels := {label for _, label in levels.values()}) == 1:
        have = sum(counts[folders] for folders in levels)
        what = f"{have:,} pictures of {CLASSES[labels.pop()]}, and none of the other class"
        remedy = f"Add them, or name the folders: {remedy.split(': ')[1]}"
    else:
        what = f"no pictures in folders called {classes or ' and '.join(CLASSES) + ' or the like'}"
    return f"{origin} holds {what}; the folders with pictures are {name_some(sorted(seen))}. {remedy}"
