"""Spellings of class names and file names that mean the same."""

import contextlib
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from crackutils.files import printable

# names of the classes, in tables and of folders; `class_of` ignores case, spaces, dashes and underscores
_NO = "negative neg uncracked uncrack nocrack nocracks noncrack noncracked notcracked withoutcrack withoutcracks"
_NO += " crackfree no n false f nein falsch non faux nee nej não nie intact normal undamaged uw ud up"
_YES = "positive pos cracked crack cracks withcrack withcracks yes y true t ja j wahr oui vrai damaged cw cd cp"
CLASS_NAMES = dict.fromkeys(["0", *_NO.split()], 0) | dict.fromkeys(["1", *_YES.split()], 1)


def class_of(name: str) -> int | None:
    """Return 0 for names of no crack and 1 for names of crack (`CLASS_NAMES`, also 1.0 or 1,0), None for others."""
    name = re.sub(r"(?<=[a-z])[\s_-]+(?=[a-z])", "", name.strip().lower())  # the sign of a number stays
    return CLASS_NAMES.get(re.sub(r"(?<=\d)[.,]0*$", "", name))


def match_names(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return each name as `known` spells it if exactly one matches, else unchanged.

    Case, slashes, a leading ./, composed letters, escapes of bytes and the encoding of the table are ignored, and so is
    the suffix if a name has none.
    """
    keys, stems, known, found = defaultdict(list), defaultdict(list), set(known), []
    for name in known:
        keys[_key(name)].append(name)
        stems[_key(posixpath.splitext(name)[0])].append(name)
    for name in names:
        alike = ([one] if one in known else keys[_key(one)] or stems[_key(one)] for one in _spellings(name))
        found.append(next((one[0] for one in alike if len(one) == 1), name))
    return found


def _spellings(name: str) -> Iterator[str]:
    """Yield readings of a name: itself, with slashes, and, if misread as Windows-1252, in three other encodings."""
    yield name
    yield (name := posixpath.normpath(name.strip().replace("\\", "/")))
    for encoding in ("utf-8", "mac_roman", "cp850") if not name.isascii() else ():
        with contextlib.suppress(UnicodeError):
            yield name.encode("cp1252", "surrogateescape").decode(encoding)


def find_files(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the names of files in a table, absolute or relative to `folder`, as on the disk (`match_names`).

    A name stays unchanged if no file, or more than one, matches.
    """
    missing = [name for name in dict.fromkeys(names) if not os.path.isfile(folder / name)]
    keys, known = [_key(one) for name in missing for one in _spellings(name)], []
    wanted = {key[: k + 1] for key in keys for k, sign in enumerate(key) if sign == "/"}
    for top in {re.match(r"/|(\.\./)*", key)[0] for key in keys}:
        for place, folders, files in os.walk(folder / top, followlinks=True):  # only folders in the names
            below = posixpath.join(top, Path(place).relative_to(folder / top).as_posix())
            folders[:] = [name for name in folders if f"{_key(posixpath.join(below, name))}/" in wanted]
            known += [posixpath.normpath(posixpath.join(below, name)) for name in files]
    found = dict(zip(missing, match_names(missing, known), strict=True))
    return [found.get(name, name) for name in names]


def _key(name: str) -> str:
    path = posixpath.normpath(printable(name.strip()).replace("\\", "/"))
    return unicodedata.normalize("NFC", path).casefold()
