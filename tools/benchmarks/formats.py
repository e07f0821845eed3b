"""Export our recipes and the detector in every format, and set accuracy, size and speed beside each other.

    python -m tools.benchmarks.formats [PROFILE]

Takes the runs of a profile, metu-half if none is given, as notebooks 03 and 04 left them. Writes formats.json, and the
table in docs/export.md from it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd

from crackutils import config
from crackutils.deployment.export import export_model
from crackutils.deployment.runtimes import FORMATS
from crackutils.files import write_atomically
from crackutils.recipes import OURS
from tools.notebooks import replace_marked

OUT, PAGE = Path(__file__).with_suffix(".json"), config.ROOT / "docs" / "export.md"
_KEPT = ("format", "accuracy", "compared_with_keras", "images_per_second", "threads", "bytes")


def measure_formats(profile: str) -> dict[str, Any]:
    """Return the cards of all formats of the profile's runs of our recipes, and of the detector."""
    runs = sorted((config.results_dir() / profile).glob("0[34]_*/*/model"))
    sources = [str(home.parent) for home in runs if home.parent.name in {recipe.name for recipe in OURS}]
    if not sources:
        raise config.CrackutilsError(f"PROFILE={profile} has no finished run. Run make run-03 PROFILE={profile} first.")
    cards = []
    with tempfile.TemporaryDirectory() as place:
        for source in [*sources, "detector"]:
            for k, (form, ending) in enumerate(FORMATS.items()):
                try:
                    card = export_model(source, form, Path(place) / f"{len(cards)}-{k}{ending}")
                except config.CrackutilsError as error:  # beyond tolerance: that is a result as well
                    card = {"format": form, "refused": str(error)}
                cards.append({"source": Path(source).name} | {name: card[name] for name in _KEPT if name in card})
                cards[-1] |= {"refused": card["refused"]} if "refused" in card else {}
                print(json.dumps(cards[-1]), flush=True)
    return {"profile": profile, "cards": cards}


def format_table(found: dict[str, Any]) -> str:
    """Return `measure_formats` as Markdown, with a caption."""
    rows, base = [], {c["source"]: c["images_per_second"] for c in found["cards"] if c["format"] == "litert"}
    for card in found["cards"]:
        row = {"Model": f"`{card['source']}`", "Format": f"`{card['format']}`"}
        if "refused" in card:
            rows.append(row | dict.fromkeys(("Test", "Changed sides", "MB", "Speed"), "refused"))
            continue
        test = card["accuracy"]
        row["Test"] = f"{test['errors']} of {test['n']:,}" if "errors" in test else f"IoU {test['iou']:.3f}"
        row["Changed sides"] = f"{card['compared_with_keras']['changed_sides']:.4f}"
        row["MB"] = f"{card['bytes'] / 1e6:.1f}"
        row["Speed"] = f"{card['images_per_second'] / base[card['source']]:.2f}"
        rows.append(row)
    table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    caption = (
        f"Test: errors on the test images of {found['profile']}; for the detector, overlap with the exact masks of 16"
        " synthetic photos. Changed sides: share of the compared images, or crack pixels, on another side of the"
        " threshold than with Keras. Speed: images per second, one image at a time with"
        f" {found['cards'][0]['threads']} threads, as a ratio to LiteRT of the same model in the same run."
    )
    return f"{table}\n\n*{textwrap.fill(caption, 126)}*"


def write_page(check: bool = False) -> bool:
    """Write the table of formats.json into docs/export.md, and return whether it was up to date; `check` only looks."""
    text = PAGE.read_text("utf-8")
    wanted = replace_marked(text, "formats", format_table(json.loads(OUT.read_text("utf-8"))))
    if wanted != text and not check:
        write_atomically(PAGE, wanted)
    return wanted == text


def main() -> None:
    """Measure, and write formats.json and the table."""
    profile = config.start(sys.argv[1] if len(sys.argv) > 1 else "metu-half").name
    write_atomically(OUT, json.dumps(measure_formats(profile), indent=1) + "\n")
    write_page()


if __name__ == "__main__":
    main()
