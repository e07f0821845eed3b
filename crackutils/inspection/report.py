"""Find cracks in whole photos: where they are, how long and how wide, as pictures, tables and a report to mail."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from crackutils import config

LISTED = 10  # cracks of a photo that the report lists, and that have their number in the picture
_MAILED = 1000  # pixels, longest side of a picture
_MAIL = 10e6  # bytes, about, of the report's pictures: as text, and written as text once more by mail, 18 million


def write_report(
    table: pd.DataFrame, found: dict[str, dict[str, Any]], threshold: float, mm: float | None, model: Path, chosen: str
) -> str:
    from jinja2 import Environment

    unit = "mm" if mm else "px"

    left, good = _MAIL, table[table["problem"] == ""]
    small = sum((found[name]["home"] / "thumbnail.jpg").stat().st_size for name in good["file"])  # these come first

    def picture(name: str, which: str) -> str:
        """Return a JPEG as text; nothing for a large one where the report would become too large to mail."""
        nonlocal left, small
        content = (found[name]["home"] / f"{which}.jpg").read_bytes()
        if which == "thumbnail":
            small -= len(content)
            if left < len(content):
                return ""
        if which == "overlay":
            with Image.open(io.BytesIO(content)) as large:
                large.thumbnail((_MAILED, _MAILED))
                smaller = io.BytesIO()
                large.save(smaller, "JPEG", quality=70)
            content = smaller.getvalue()
            if left - small < len(content) or not found[name]["cracks"]:
                return ""
        left -= len(content)
        return base64.b64encode(content).decode()

    env = Environment(autoescape=True)  # names of files are not ours
    env.globals["picture"] = picture
    return env.from_string(_PAGE).render(
        photos=good.to_dict("records"), unusable=table[table["problem"] != ""].to_dict("records"), found=found,
        unit=unit, listed=LISTED, threshold=f"{threshold:.3g}", chosen=chosen, mm=mm,
        model=config.display_path(model),
        cracked=int((good["cracks"] > 0).sum()), length=float(good[f"length_{unit}"].sum()),
        made=time.strftime("%Y-%m-%d %H:%M"),
    )  # fmt: skip


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Cracks in {{ photos | length }} photos</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
details { border-top: 1px solid #ccc; padding: .6rem 0 }
summary { display: grid; grid-template-columns: 15rem 1fr; gap: 1rem; cursor: pointer; align-items: center }
summary img { width: 100%; border-radius: 4px } details > img { max-width: 100% }
table { border-collapse: collapse; margin: .6rem 0 } td, th { padding: .15rem .8rem .15rem 0; text-align: right }
th:first-child, td:first-child { text-align: left } b { font-size: 1.05rem; overflow-wrap: anywhere }
.frame { color: #0072b2; font-weight: bold } .line { color: #b87700; font-weight: bold } .quiet { color: #555 }
@media print { details { break-inside: avoid } }
</style></head><body>
<h1>Cracks in {{ photos | length }} photos</h1>
<p>{{ cracked }} of {{ photos | length }} photos show something crack-like; all middle lines together are
{{ "{:,.0f}".format(length) }} {{ unit }} long.{% if unusable %} What could not be used ({{ unusable | length }}) is
listed
at the end.{% endif %} The photos with the longest cracks come first; click one to enlarge it.</p>
<p><span class="frame">Blue</span> frames what the network takes for a crack at the threshold {{ threshold }}
{%- if chosen %} ({{ chosen }}){% endif %};
<span class="line">orange</span> is the middle line of the dark line found there.
{% if mm %}A pixel shows {{ mm }} mm.{% else %}Lengths are in pixels: no scale was given.{% endif %}
These are candidates for a person to look at: faint cracks are missed, and joints, scratches and stains are taken for
some.</p>
<p class="quiet">Model: {{ model }}. Made {{ made }}.</p>
{% for p in photos %}<details><summary>{% set little = picture(p.file, 'thumbnail') %}
{% if little %}<img alt="" src="data:image/jpeg;base64,{{ little }}">{% else %}<span></span>{% endif %}
<span><b>{{ p.file }}</b><br>{{ p.wide | int }} x {{ p.high | int }} pixels. {% if p.cracks %}{{ p.cracks }}
crack{{ '' if p.cracks == 1 else 's' }}, together {{ '{:,.0f}'.format(p['length_' + unit]) }} {{ unit }} long, at most
{{ '{:,.1f}'.format(p['width_most_' + unit]) }} {{ unit }} wide; {{ p.tiles_cracked }} of {{ p.tiles }} tiles are
cracked.
{% else %}Nothing crack-like.{% endif %} Surest tile: p = {{ '{:.3f}'.format(p.p_crack) }}.</span></summary>
{% set large = picture(p.file, 'overlay') %}{% if large %}
<img alt="{{ p.file }} with what was found" src="data:image/jpeg;base64,{{ large }}">{% elif p.cracks %}
<p>The picture is left out, so that this report can be mailed: photos/{{ p.file }}/overlay.jpg.</p>{% endif %}
{% if p.cracks %}{% if p.cracks > listed %}<p>The {{ listed }} longest of {{ p.cracks }}:</p>{% endif %}
<table><tr><th>crack</th><th>at x, y (px)</th><th>length ({{ unit }})</th>
<th>mean width ({{ unit }})</th><th>most ({{ unit }})</th><th>surest cell</th></tr>
{% for c in found[p.file].cracks[:listed] %}<tr><td>{{ loop.index }}</td><td>{{ c.x_top }}, {{ c.y_top }}</td>
<td>{{ '{:,.0f}'.format(c.length) }}</td><td>{{ '{:,.2f}'.format(c.width_mean) }}</td>
<td>{{ '{:,.2f}'.format(c.width_most) }}</td><td>p = {{ '{:.3f}'.format(c.p_crack) }}</td></tr>
{% endfor %}</table>{% endif %}</details>
{% endfor %}{% if unusable %}<h2>Could not be used</h2><ul>
{% for p in unusable %}<li><b>{{ p.file }}</b> {{ p.problem }}</li>
{% endfor %}</ul>{% endif %}</body></html>
"""
