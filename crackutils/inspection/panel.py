"""Find cracks in whole photos: where they are, how long and how wide, as pictures, tables and a report to mail."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crackutils.inspection.drawing import tint_overlay
from crackutils.inspection.folder import inspect_photo
from crackutils.inspection.tiling import cell_logits, load_detector, sigmoid


def panel(photos: Sequence[str | Path], out: str | Path, model: Path) -> Any:
    """Return a widget: choose or upload a photo, move the threshold, see what is found, or the map behind it.

    Args:
        photos: files to choose from.
        out: folder for maps and for uploaded photos.
        model: as for `inspect`.
    """
    import ipywidgets as w

    out, net = Path(out), load_detector(model)
    out.mkdir(parents=True, exist_ok=True)
    choice = w.Dropdown(options=[(Path(p).name, str(p)) for p in photos], description="photo")
    upload = w.FileUpload(accept="image/*", description="upload")
    bound = w.FloatSlider(0.5, min=0.05, max=0.95, step=0.05, description="threshold", continuous_update=False)
    probable = w.Checkbox(False, description="probability of each cell")
    picture, told = w.Image(format="jpeg", layout={"max_width": "100%"}), w.HTML()

    def show(_: Any = None) -> None:
        if choice.value is None:
            told.value = "Upload a photo."
            return
        told.value = "looking ..."
        home = out / hashlib.sha256(choice.value.encode()).hexdigest()[:16]
        try:
            one = inspect_photo(Path(choice.value), home, net, bound.value, None)
            drawn = b"" if one["problem"] else (home / "overlay.jpg").read_bytes()
            if drawn and probable.value:
                drawn = tint_overlay(
                    drawn, sigmoid(cell_logits(np.load(home / "map.npy"))), max(one["wide"], one["high"])
                )
        except Exception as error:  # nobody sees what a widget's callback raises
            one = {"problem": f"cannot be shown ({error})"}
        if one["problem"]:
            picture.value = b""
            told.value = f"{html.escape(Path(choice.value).name)} {html.escape(one['problem'])}."
            return
        picture.value = drawn
        length = sum(crack["length"] for crack in one["cracks"])
        told.value = f"crack-like lines: {len(one['cracks'])}, together {length:,.0f} pixels long"

    def take(change: Any) -> None:
        new = change["new"]
        for file in new.values() if isinstance(new, dict) else new:  # ipywidgets 7, as on Colab, and 8
            kept = out / "uploaded" / Path(file.get("name") or file["metadata"]["name"]).name
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(bytes(file["content"]))
            choice.options = [*(o for o in choice.options if o[1] != str(kept)), (kept.name, str(kept))]
            choice.value = str(kept)

    upload.observe(take, "value")
    for control in (choice, bound, probable):
        control.observe(show, "value")
    show()
    return w.VBox([w.HBox([choice, upload, bound, probable]), told, picture])
