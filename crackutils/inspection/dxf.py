"""The centre lines of photos as a drawing for CAD programs (DXF)."""

import io

import ezdxf
from ezdxf import units
from ezdxf.lldxf.const import INVALID_LAYER_NAME_CHARACTERS

from crackutils.files import as_text, printable

FRAMES, OVER = "frames", "_over_limit"  # the layer of frames, names, numbers; ends the name of a layer over the limit
_GAP = 0.05  # between two photos, in widths of the widest
_TEXT, _NUMBER = 0.03, 0.012  # height of a photo's name and of a crack's number, in heights of the photo
_FORBIDDEN = INVALID_LAYER_NAME_CHARACTERS | {"|", ","}  # by AutoCAD too
_LINES, _WIDER, _GREY = ({"color": 30, "lineweight": 25}, {"color": 1, "lineweight": 70}, {"color": 8})


def write_dxf(found: dict[str, dict], scales: dict[str, float | None]) -> str:
    """Return the centre lines of photos, results of `inspect_photo` by name, as DXF; equal lines give equal text.

    The unit is millimetres if the scales (millimetres per pixel, by name) are known, else pixels. Photos lie side by
    side; the upper left corner of the first is (0, 0), and y points up. Each photo has a layer for its lines, and a
    second one, whose name ends in `OVER`, that repeats the parts over the limit. Frames, names, and the numbers of
    cracks, each at the top of the longest piece, are on the layer `FRAMES`.
    """
    before = ezdxf.options.write_fixed_meta_data_for_testing
    ezdxf.options.write_fixed_meta_data_for_testing = True  # else it writes the time and random numbers
    try:
        document, content = ezdxf.new("R2010", units=units.MM if any(scales.values()) else 0), io.StringIO()
        _draw(document, {name: one for name, one in found.items() if "wide" in one}, scales)
        document.write(content)
    finally:
        ezdxf.options.write_fixed_meta_data_for_testing = before
    return content.getvalue()


def _draw(document: ezdxf.document.Drawing, photos: dict[str, dict], scales: dict[str, float | None]) -> None:
    space, left, factors = document.modelspace(), 0.0, {name: scales[name] or 1.0 for name in photos}
    tallest = max((one["high"] * factors[name] for name, one in photos.items()), default=0)
    gap = _GAP * max((one["wide"] * factors[name] for name, one in photos.items()), default=0)
    document.header["$LWDISPLAY"] = 1  # thick lines show at once
    document.layers.add(FRAMES, **_GREY)
    for (name, one), layer in zip(photos.items(), _name_layers(photos), strict=True):
        scale = factors[name]
        wide, high = one["wide"] * scale, one["high"] * scale
        corners = [(left, 0), (left + wide, 0), (left + wide, -high), (left, -high)]
        space.add_lwpolyline(corners, close=True, dxfattribs={"layer": FRAMES})
        height = min(_TEXT * high, wide / len(name))  # names must not overlap
        title = {"layer": FRAMES, "insert": (left, height / 2)}
        space.add_text(printable(name), height=height, dxfattribs=title)
        document.layers.add(layer, **_LINES)
        lines = [(layer, line["points"]) for line in one["lines"]]
        lines += [(layer + OVER, stretch) for line in one["lines"] for stretch in line.get("over", [])]
        if len(lines) > len(one["lines"]):
            document.layers.add(layer + OVER, **_WIDER)
        for own, points in lines:
            places = [(round(x * scale + left, 6), round(y * scale, 6)) for x, y in points]
            space.add_lwpolyline(places, dxfattribs={"layer": own})
        for line in (line for line in one["lines"] if line["piece"] == 1):
            x, y = max(line["points"], key=lambda point: point[1])
            place = {"layer": FRAMES, "insert": (round(x * scale + left, 6), round(y * scale, 6))}
            space.add_text(str(line["crack"]), height=_NUMBER * high, dxfattribs=place)
        left = round(left + wide + gap, 6)
    if photos:  # CAD programs first show the whole drawing
        document.set_modelspace_vport(1.1 * max(tallest, left / 2), (left / 2, -tallest / 2))


def _name_layers(photos: dict[str, dict]) -> list[str]:
    """Return a layer name for each photo, valid in DXF and unique without regard to case."""
    used, names = {"0", "defpoints", FRAMES}, []
    for photo in photos:
        safe = "".join(c if c.isprintable() and c not in _FORBIDDEN else "_" for c in as_text(photo)).strip()[:200]
        name, k = safe, 1
        while used & {name.lower(), (name + OVER).lower()}:
            name, k = f"{safe} ({k + 1})", k + 1
        used |= {name.lower(), (name + OVER).lower()}
        names.append(name)
    return names
