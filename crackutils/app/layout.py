"""What stands where on the page."""

import os
from types import SimpleNamespace

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported: it would ask its makers' server
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path
from typing import Any

import gradio as gr

from crackutils import __version__
from crackutils.app.desk import LONGEST
from crackutils.inspection.limit import EXPOSURES
from crackutils.inspection.session import MARKS

UPLOAD = "500mb"  # of one file, at most
CLICKS = ("choose a crack", "set the scale")
SCOPES = ("all photos", "this photo")
TABS = ("Cracks", "Beside the photo", "Probability", "Brush")
KINDS = (*MARKS, "not marked")
BRUSHES = {"add": "#e69f00", "erase": "#0072b2"}  # colours, as lines and frames have them
_PICTURE = {"format": "jpeg", "interactive": False, "elem_classes": "picture", "buttons": ["fullscreen"]}
CSS = """
footer {display: none !important}
.picture img {width: 100%; object-fit: contain}
#picture:not(.fullscreen) img, #tint:not(.fullscreen) img {max-height: 65vh}
#table th *, #table td * {font-family: inherit; overflow-wrap: normal !important; word-break: normal !important}
#files {min-height: 206px} #facts, #told {min-height: 6.5em} /* else what has the focus moves out of view */
@media (max-width: 600px) {#table th, #table td, #table .cell-wrap {font-size: 12px; padding-inline: 3px !important}}
:focus-visible {outline: 3px solid #0072b2 !important; outline-offset: 1px}
"""


def _read_upload(payload: Any) -> list[tuple[Path, str]]:
    """Return path and the user's own name, which gradio shortens, of each file."""
    files = getattr(payload, "root", [payload] if payload else [])
    return [(Path(file.path), file.orig_name or Path(file.path).name) for file in files]


def lay_out(model: str) -> SimpleNamespace:
    """Lay out the page inside a gr.Blocks and return its parts by name; `model` says which network it is."""
    parts: dict[str, Any] = {"screen": gr.State(None)}
    parts["known"] = gr.BrowserState(None, storage_key="crackutils-desk", secret="crackutils")
    gr.Markdown(
        f"# Cracks in photos\nNetwork: {model} (crackutils {__version__}). Photos stay on the computer where"
        " this page was started. Widths are estimates: check important ones on site."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            parts |= _lay_out_settings()
        with gr.Column(scale=3, min_width=300):
            title = "Threshold (lower finds more)"
            parts["threshold"] = gr.Slider(0.05, 0.95, 0.5, step=0.05, label=title, elem_id="threshold")
            parts |= _lay_out_pictures() | _lay_out_cracks() | _lay_out_report()
    return SimpleNamespace(**parts)


def _lay_out_settings() -> dict[str, Any]:
    gr.Markdown("## 1 Photos")
    label = f"Photos, or a session file (.zip); each at most {UPLOAD.upper()}"
    parts = {"files": gr.File(label=label, file_count="multiple", height=160, elem_id="files")}
    parts["files"].preprocess = _read_upload  # not a class of our own: gradio writes files beside those
    parts["photo"] = gr.Dropdown(label="Photo", choices=[], elem_id="photo")
    parts["facts"] = gr.Markdown(elem_id="facts")
    parts["remove"] = gr.Button("Remove this photo", size="sm")
    gr.Markdown("## 2 Scale")
    parts["scope"] = gr.Radio(list(SCOPES), value=SCOPES[0], label="The scale holds for", elem_id="scope")
    parts["scale"] = gr.Textbox(label="Millimetres per pixel, as 0.2 (press Enter)", max_lines=1, elem_id="scale")
    with gr.Accordion("From two points", open=False):
        gr.Markdown("Choose *set the scale* below the picture and click on two points, or type them.")
        parts["ends"] = gr.Textbox(label="Points: x, y; x, y (pixels of the photo)", elem_id="ends")
        parts["exact"] = gr.Markdown(elem_id="exact")
        parts["distance"] = gr.Textbox(label="Their distance in millimetres", max_lines=1, elem_id="distance")
        parts["by_points"] = gr.Button("Set the scale from the points")
    with gr.Accordion("From an ArUco marker", open=False):
        parts["side"] = gr.Textbox(label="Side of the marker in millimetres", max_lines=1, elem_id="side")
        parts["by_marker"] = gr.Button("Find the marker and set the scale")
    gr.Markdown("## 3 Threshold and limit\nThe threshold is above the picture.")
    parts["limit"] = gr.Textbox(label="Largest allowed width in mm, as 0.3 (press Enter)", max_lines=1, elem_id="limit")
    rule = "Or by exposure class (EN 1992-1-1, Table 7.1N)"
    info = "Recommended values for reinforced concrete; your national annex may differ."
    parts["exposure"] = gr.Dropdown(["", *EXPOSURES], value="", label=rule, info=info, elem_id="exposure")
    return parts


def _lay_out_pictures() -> dict[str, Any]:
    parts = {}
    with gr.Tabs() as parts["tabs"]:
        with gr.Tab(TABS[0]):
            parts["picture"] = gr.Image(label="Cracks", elem_id="picture", **_PICTURE)
            gr.Markdown(
                "Blue: possible cracks. Orange: centre lines. Red and !: wider than the limit. White with a black rim:"
                " the chosen line. x: rejected by you. Numbers without room are left out."
                " The network marks some holes and joints too: reject them below before you write the report."
            )
            parts["clicks"] = gr.Radio(list(CLICKS), value=CLICKS[0], label="A click in the picture", elem_id="clicks")
        with gr.Tab(TABS[1]):
            parts["beside"] = gr.ImageSlider(label="Photo and cracks", format="jpeg", interactive=False, max_height=900)
        with gr.Tab(TABS[2]):
            parts["tint"] = gr.Image(label="Probability of each pixel: purple 0, yellow 1", elem_id="tint", **_PICTURE)
        with gr.Tab(TABS[3]):
            fixed = {"type": "numpy", "format": "png", "sources": (), "transforms": (), "layers": False, "buttons": []}
            brush = gr.Brush(6, list(BRUSHES.values()), BRUSHES["add"], "fixed")
            side = LONGEST // 2
            parts["editor"] = gr.ImageEditor(
                label="Paint, then apply", brush=brush, height=700, canvas_size=(side, side), elem_id="editor", **fixed
            )
            gr.Markdown(
                "Orange adds cracks, blue erases. Any next action applies the strokes too. By keyboard, type a line."
                " Widths are measured in the photo: where it shows no crack, they mean nothing."
            )
            parts["painted"] = gr.Textbox(visible="hidden")  # which picture the editor shows
            with gr.Row():
                parts["stroke"] = gr.Textbox(label="Line: x, y; x, y; ... (pixels of the photo)", elem_id="stroke")
                parts["thick"] = gr.Number(5, label="Width of the line in pixels", minimum=1, elem_id="thick")
                parts["does"] = gr.Radio(list(BRUSHES), value="add", label="Effect", elem_id="does")
            with gr.Row():
                parts["apply"] = gr.Button("Apply brush and line", variant="primary")
                parts["unbrush"] = gr.Button("Remove all strokes")
    return parts


def _lay_out_cracks() -> dict[str, Any]:
    gr.Markdown("## 4 Cracks")
    parts = {}
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            title = "Cracks, the longest first"
            parts["table"] = gr.Dataframe(label=title, interactive=False, wrap=True, buttons=[], elem_id="table")
        with gr.Column(scale=2, min_width=300):
            parts["crack"] = gr.Dropdown(label="Crack or rejected line", choices=[], elem_id="crack")
            parts["crop"] = gr.Image(label="Close-up", height=400, elem_id="crop", **_PICTURE)
            parts["told"] = gr.Markdown(elem_id="told")
            parts["kind"] = gr.Radio(list(KINDS), label="This line is", elem_id="kind")
            parts["unmark"] = gr.Button("Remove all marks in this photo")
    return parts


def _lay_out_report() -> dict[str, Any]:
    gr.Markdown("## 5 Report")
    exif = gr.Checkbox(True, label="Include camera, date and GPS place", elem_id="exif")
    with gr.Row():
        parts = {"exif": exif, "write": gr.Button("Write the report", variant="primary")}
        parts |= {"keep": gr.Button("Save the session"), "clear": gr.Button("Remove all photos", variant="stop")}
        parts["spare"] = gr.Button("Keep them", visible=False, elem_id="spare")
        parts["really"] = gr.Button(variant="stop", visible=False, elem_id="really")
    parts["done"] = gr.File(label="Downloads", interactive=False, elem_id="done")
    return parts
