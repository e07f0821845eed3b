"""What a model is worth on other people's concrete, what helps it there, and what breaks it."""

from __future__ import annotations

from typing import Any

from crackutils import config
from crackutils.transfer.evaluation import auroc_text
from crackutils.transfer.methods import SAVED


def write_card(metrics: dict[str, Any], recipe: Any) -> str:
    """Return the card of the network of notebook 08: what it is, how it was trained, where it works, where not."""
    m, home, where = metrics, metrics["home"]["test"], metrics["target"]
    net = next(row for row in m["report"] if row["method"] == SAVED)
    thirds = {(r["measure"], r["third"]): r["auroc"] for r in m["by_measure"] if r["run"] == recipe.name}
    lines = [
        f"# {recipe.title}",
        "",
        "- Task: does a concrete tile show a crack, and in which cells of 16x16 pixels?",
        f"- Input: RGB {recipe.size}x{recipe.size}, values 0-255. Output: probability of `{config.CLASSES[1]}`. The"
        f" layer `cells` gives log-odds for each of {(recipe.size // 16) ** 2} cells.",
        f"- Trained on `{m['settings']['profile']}` ({m['data']['train']['images']:,} images, of which only the label"
        " is used) and on photos made by code with their masks; from"
        f" {m['model']['start']['weights']} weights, {m['model']['parameters']:,} parameters,"
        f" {m['stages'][0]['steps']:,} steps.",
        f"- At home: {home['errors']} errors in {home['n']:,} test images at the threshold 0.5 (AUROC"
        f" {home['auroc']:.4f}).",
        f"- Elsewhere, `{where['name']}`: AUROC {auroc_text(net)}, average precision {net['average_precision'] or 0:.3f} on"
        f" {net['n']:,} images ({net['cracked']:,} with a crack) of photos on which nothing was chosen; no label of"
        f" theirs fitted anything, {where['tuning_photos']} other photos helped to choose the method.",
        *(
            f"- There, at the threshold {at['threshold']}: recall {at['recall'] or 0:.3f}, precision"
            f" {at['precision'] or 0:.3f}, F1 {at['f1'] or 0:.3f}."
            for at in m["thresholds"]
        ),
        "- Choose the threshold at your own site.",
    ]
    if where["made"]:
        lines.append(
            "- Those images were made by the same code as the photos with masks: no evidence of use elsewhere."
        )
    names = {"width": ("width of the longest dark thing", "narrowest", "widest")}
    names |= {"contrast": ("depth of the darkest 2 %", "faintest", "clearest")}
    names |= {"sharpness": ("sharpness", "most blurred", "sharpest")}
    for measure, (what, low, high) in names.items():
        ends = [thirds.get((measure, k)) for k in (0, 2)]
        if None not in ends:
            lines.append(f"- By {what}: AUROC {ends[0]:.3f} on the {low} third, {ends[1]:.3f} on the {high}.")
    rows = [r for r in m["robustness"] if r["run"] == recipe.name and r["strength"] == 3]
    broken = ", ".join(f"{r['corruption']} {r['error_rate']:.0%}" for r in sorted(rows, key=lambda r: -r["error_rate"]))
    lines += [
        f"- Corrupted images of the profile, middle strength, share that is wrong: {broken}.",
        "- Not tested: whole photos squeezed into one tile, other magnifications than those of these images, other"
        " materials than concrete.",
        '- Load: `crackutils.training.load("<this run\'s folder>")`; score: `python -m crackutils score FOLDER --model'
        " <this run's folder> --out scores.csv`; adapt: `python -m crackutils adapt --labels my.csv --out FOLDER`.",
    ]
    return "\n".join(lines) + "\n"
