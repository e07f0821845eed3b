"""A widget for notebooks: choose a photo, move the threshold, see the cracks."""

import hashlib
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crackutils.inspection.drawing import tint_overlay
from crackutils.inspection.photo import resume_photo
from crackutils.inspection.tiling import load_detector


def panel(photos: Sequence[str | Path], out: str | Path, model: Path) -> Any:
    """Return a widget to choose or upload a photo, move the threshold, and see the overlay, or the map behind it.

    `out` is the folder for maps and for uploaded photos, `model` a run as for `load_detector`.
    """
    import ipywidgets as w  # for this widget only

    out, net = Path(out), load_detector(model)
    out.mkdir(parents=True, exist_ok=True)
    choice = w.Dropdown(options=[(Path(p).name, str(p)) for p in photos], description="photo")
    upload = w.FileUpload(accept="image/*", description="upload")
    bound = w.FloatSlider(0.5, min=0.05, max=0.95, step=0.05, description="threshold", continuous_update=False)
    probable = w.Checkbox(False, description="probability of each pixel")
    picture, text = w.Image(format="jpeg", layout={"max_width": "100%"}), w.HTML()

    def show(_: Any = None) -> None:
        if choice.value is None:
            text.value = "Upload a photo."
            return
        text.value = "inspecting ..."
        folder = out / hashlib.sha256(choice.value.encode()).hexdigest()[:16]
        try:
            one = resume_photo(Path(choice.value), folder, net, bound.value, None)
            drawn = (folder / "overlay.jpg").read_bytes() if "wide" in one else b""
            if drawn and probable.value:
                drawn = tint_overlay(drawn, np.load(folder / "map.npz")["pixels"])
        except Exception as error:  # nobody sees what a widget's callback raises
            one, drawn = {"problem": f"cannot be shown ({error})"}, b""
        picture.value = drawn
        if "wide" not in one:
            text.value = html.escape(f"{Path(choice.value).name} {one['problem']}.")
        else:
            length = sum(crack["length"] for crack in one["cracks"])
            told = f"crack-like lines: {len(one['cracks'])}, together {length:,.0f} pixels long"
            text.value = html.escape("; ".join(filter(None, [told, one["problem"]])))

    def take(change: Any) -> None:
        new = change["new"]
        for file in new.values() if isinstance(new, dict) else new:  # ipywidgets 7, as on Colab, and 8
            saved = out / "uploaded" / Path(file.get("name") or file["metadata"]["name"]).name
            saved.parent.mkdir(exist_ok=True)
            saved.write_bytes(bytes(file["content"]))
            choice.options = [*(o for o in choice.options if o[1] != str(saved)), (saved.name, str(saved))]
            choice.value = str(saved)

    upload.observe(take, "value")
    for control in (choice, bound, probable):
        control.observe(show, "value")
    show()
    return w.VBox([w.HBox([choice, upload, bound, probable]), text, picture])
