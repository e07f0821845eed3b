"""Names of files that every system and every table can hold."""

import os
import re
import unicodedata
from collections import Counter

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names of devices on Windows
_LONGEST, _LONGEST_PATH = 150, 200  # bytes of a name, and of a path below the class folder


def clean_name(name: str) -> str:
    """Return a name without control characters, without what Windows forbids, and of at most 150 bytes.

    Bytes that are no UTF-8, as old archives leave them, are read as Latin-1.
    """
    name = "".join(chr(ord(c) - 0xDC00) if "\udc80" <= c <= "\udcff" else c for c in name)
    # Cc, Cs, Zl, Zp: control characters, halves of a character, separators of lines
    name = "".join("_" if c in '<>:"/\\|?*' or unicodedata.category(c) in "Cc Cs Zl Zp" else c for c in name)
    name = name.rstrip(" .") or "_"
    name = f"_{name}" if _RESERVED.fullmatch(name) else name
    if len(name.encode()) <= _LONGEST:
        return name
    stem, ending = os.path.splitext(name)
    ending = ending if len(ending.encode()) <= 20 else ""
    return stem.encode()[: _LONGEST - len(ending.encode())].decode(errors="ignore").rstrip(" .") + ending


class Names:
    """Gives each file a clean path that no other has, where upper and lower case count as equal."""

    def __init__(self) -> None:  # noqa: D107
        self._given: Counter[str] = Counter()
        self.renamed: list[str] = []  # paths that were changed, as they came

    def give(self, path: str) -> str:
        """Return `path` (parts joined by /), or what it has to be called instead."""
        parts = [clean_name(part) for part in path.split("/") if part not in ("", ".")] or ["_"]
        while len(parts) > 2 and len("/".join(parts).encode()) > _LONGEST_PATH:
            del parts[1]  # the first is the folder of the class
        stem, ending = os.path.splitext(new := "/".join(parts))
        while self._given[key := unicodedata.normalize("NFC", new).casefold()]:
            self._given[key] += 1
            new = f"{stem}_{self._given[key]}{ending}"
        self._given[key] += 1
        if new != path:
            self.renamed.append(path)
        return new
