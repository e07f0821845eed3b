"""Run folders, what is written into them, and how they are compared, kept as reference and shown in the README."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from crackutils import config
from crackutils.compare import cost_table, summarize_runs
from crackutils.files import write_atomically
from crackutils.runs import collect_runs

README_PROFILE = "metu-half"  # whose reference the README shows
SPLITS_PROFILE = "metu-tenth"  # and the one on which recipes were compared over several splits


def update_readme(check: bool = False) -> bool:
    """Write the tables of results, from `reference/` and `benchmarks/*.json` alone, between README's marks.

    Args:
        check: change nothing, only tell.

    Returns:
        Whether the README was up to date.

    Raises:
        CrackutilsError: no reference, or the marks are missing.
    """
    readme = config.ROOT / "README.md"
    text = wanted = readme.read_text("utf-8")
    for name, write in (
        ("results", _readme_tables),
        ("audit", _readme_audit),
        ("cross", _readme_cross),
        ("speed", _readme_speed),
        ("sample", _readme_sample),
        ("inspected", _readme_inspected),
    ):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if wanted.count(begin) != 1 or wanted.count(end) != 1:
            raise config.CrackutilsError(f"README.md must hold the lines {begin} and {end} once each; put them back.")
        wanted = wanted[: wanted.index(begin)] + f"{begin}\n{write()}\n" + wanted[wanted.index(end) :]
    if wanted != text and not check:
        write_atomically(readme, wanted)
    return wanted == text


def _compared(profile: str) -> dict[str, Any]:
    file = config.REFERENCE / profile / "05_comparison" / "default" / "metrics.json"
    return json.loads(file.read_text("utf-8"))


def _readme_tables() -> str:
    from crackutils.published import PUBLISHED
    from crackutils.recipes import RECIPES

    base = config.REFERENCE / README_PROFILE
    everything = {run["run"]: run for run in collect_runs(README_PROFILE, base=base)}
    runs = [everything[name] for name in RECIPES if name in everything]
    table, cost = summarize_runs(runs), cost_table(runs)
    eda = json.loads((base / "01_eda" / "default" / "metrics.json").read_text("utf-8"))
    data, settings = runs[0]["data"], runs[0]["settings"]
    gpu = ", with GPU" if runs[0]["run_json"]["machine"]["gpu"] else ""
    lines = [
        f"{config.PROFILES[README_PROFILE].title}: {data['images']:,} images, split {settings['split']}; "
        f"{data['train']['images']:,} for training, {data['val']['images']:,} for validation, "
        f"{data['test']['images']:,} for the test; {settings['threads']} threads{gpu}. The first"
        f" {sum(name not in PUBLISHED for name in table.index)} recipes are ours; the others are those of published"
        " projects, with their mistakes corrected.",
        "",
        "| Recipe | Errors | Accuracy (95 % interval) | Random split | Published | Parameters | Training |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in table.iterrows():
        random = everything.get(f"{name}--split-random", {}).get("test")
        leaky = f"{random['errors']} of {random['n']:,}" if random else "-"
        told = PUBLISHED.get(name)
        published = f"{told.errors:,} of {told.test_images:,}" if told and told.test_images else "-"
        lines.append(
            f"| `{name}`: {RECIPES[name].title} | {row.errors:.0f} of {row.n:,.0f} |"
            f" {row.accuracy:.4f} ({row.low:.4f}-{row.high:.4f}) |"
            f" {leaky} | {published} |"
            f" {row.parameters:,.0f} | {cost.loc[name, 'minutes']:.1f} min |"
        )
    if missing := [f"`{name}`" for name in RECIPES if name not in everything]:
        lines += ["", f"Not yet run on these images: {', '.join(missing)}."]
    if missing := [f"`{name}`" for name in table.index if f"{name}--split-random" not in everything]:
        all_of_them = len(missing) == len(table)
        lines += ["", f"Not yet run on the random split: {'all of them' if all_of_them else ', '.join(missing)}."]
    compared = _compared(README_PROFILE)
    first = compared["best_by_validation"]
    verdicts: dict[str, list[str]] = {}
    for test in compared["mcnemar"]:
        if first in (test["a"], test["b"]):
            other = test["b"] if test["a"] == first else test["a"]
            verdicts.setdefault(test["verdict"], []).append(f"`{other}` (p = {test['p_holm']:.2g})")
    lines += ["", f"`{first}`, whose validation loss is the lowest, on the same images (exact McNemar test):"]
    lines += [f"- {verdict}, against {', '.join(others)}." for verdict, others in verdicts.items()]
    lines += [
        "",
        f"The p-values are corrected for all {len(compared['mcnemar'])} pairs (Holm). The intervals and the tests count"
        " every image as independent. Crops of one crack are not: the"
        f" {data['test']['positive']:,} cracked test images form {eda['groups_of_positive']['test']} groups, so the"
        " true uncertainty is larger.",
    ]
    lines += _readme_splits()
    lines += [
        "",
        "What was published, and why the numbers above do not compare with it: other test images, mostly with copies"
        " of training images among them, and up to three times as many images for training.",
        "",
        "| Recipe | Project | Errors | Accuracy | Measured by | Caveat |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{name}` | {p.source} | "
        + (f"{p.errors:,} of {p.test_images:,} | {p.accuracy:.4f}" if p.test_images else "- | -")
        + f" | {p.measured} | {p.caveat} |"
        for name, p in PUBLISHED.items()
    ]
    leaked, tests = eda["test_images_with_copy_in_train"], eda["data"]["test"]["images"]
    lines += [
        "",
        f"Of these images {eda['share_with_copy']:.1%} have an exact, re-encoded or shifted copy. A random split puts"
        f" {leaked['random']:,} images into a test set of about {tests:,} whose copy is in training; the copy-safe"
        f" split {leaked['copy-safe']:,}, as it is built from the same pairs."
        f" A check by another means finds {eda['check']['images_with_copy']} of"
        f" {eda['check']['images_asked']:,} validation and test images with a copy on another side.",
    ]
    return "\n".join(lines)


def _readme_splits() -> list[str]:
    from crackutils.published import PUBLISHED

    lines = []
    for profile in (README_PROFILE, SPLITS_PROFILE):
        found = _compared(profile) if (config.REFERENCE / profile).is_dir() else {"over_splits": []}
        rows = sorted(found["over_splits"], key=lambda row: row["val_loss"])
        if not rows:
            continue
        those = {row["recipe"] for row in rows}
        ran = [r for r in found["by_split"] if r["split"] == "copy-safe"]
        seeds = [{r["split_seed"] for r in ran if r["recipe"] == name} for name in those]
        lines += [
            "",
            f"Over {rows[0]['splits']} copy-safe splits of {config.PROFILES[profile].title}, in the order of their"
            f" seeds {', '.join(map(str, sorted(set.intersection(*seeds))))}:",
            "",
            "| Recipe | Mean errors | Errors | Accuracy, splits together (95 % interval) |"
            f" Against `{rows[0]['recipe']}` |",
            "|---|---|---|---|---|",
        ]
        for row in rows:
            verdict = f"{row['verdict']} (p = {row['p_holm']:.2g})" if row["verdict"] else "lowest validation loss"
            lines.append(
                f"| `{row['recipe']}`{'' if row['recipe'] in PUBLISHED else ' (ours)'} | {row['mean_errors']:.1f} |"
                f" {sum(row['errors'])} of {row['n']:,} ({', '.join(map(str, row['errors']))}) | {row['accuracy']:.4f}"
                f" ({row['low']:.4f}-{row['high']:.4f}) | {verdict} |"
            )
        if one := [r for r in ran if r["recipe"] not in those]:
            lines += ["", f"Run on one of these splits only: {', '.join('`' + r['recipe'] + '`' for r in one)}"]
            if min(r["errors"] for r in one) > sum(rows[0]["errors"]):
                lines[-1] += f"; each makes more errors there than `{rows[0]['recipe']}` on all {rows[0]['splits']}"
            lines[-1] += "."
    if lines:
        lines += [
            "",
            "Training and test images of these splits overlap, so the p-values are too small and the intervals too"
            " narrow; and some of the tested images were among those on which our recipe was chosen.",
        ]
    return lines


def _readme_audit() -> str:
    def measured(profile: str) -> dict[str, Any]:
        file = config.REFERENCE / profile / "07_data_audit" / "default" / "metrics.json"
        return json.loads(file.read_text("utf-8"))

    real, made = measured(README_PROFILE), measured("sample")
    share, relatives = real["mosaics"]["share"], real["relatives_in_training"]
    rates = {(row["head"], row["method"]): row for row in real["leakage"]}
    lines = [
        f"On {config.PROFILES[README_PROFILE].title}: {real['overlaps']:,} pairs of images overlap;"
        f" {share['Positive']:.1%} of Positive and {share['Negative']:.1%} of Negative overlap at least one other."
        " What that does to a test set, and to the share of test images that heads on frozen features get wrong (ten"
        " splits of each kind, 95 % interval over splits):",
        "",
        "| Split | Test images | same crop in training | overlap in training | Linear head | Dense head |"
        " Nearest neighbour |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in ("random", "copy-safe", "photo-safe"):
        row, cells = relatives[method], []
        for head in ("linear", "dense", "nearest"):
            r = rates[head, method]
            cells.append(f"{r['error_rate']:.2%} ({r['low']:.2%}-{r['high']:.2%})")
        lines.append(
            f"| {method} | {row['test']:,} | {row['with copy']:,} | {row['with overlap']:,} | {' | '.join(cells)} |"
        )
    lines += ["", "Images of which the same crop, or an overlap, exists, with and without it in training:"]
    lines += ["", "| Head | There is | not in training | in training |", "|---|---|---|---|"]
    pairs = {(r["head"], r["near"], r["in_training"]): r for r in real["leakage_by_relative"]}
    for head, near in dict.fromkeys((head, near) for head, near, _ in pairs):
        told = [pairs.get((head, near, taught)) for taught in (False, True)]
        cells = [f"{r['errors']} of {r['n']:,} wrong, {r['error_rate']:.2%}" if r else "-" for r in told]
        lines.append(f"| {head} | {'the same crop' if near == 'copy' else 'an overlap'} | {' | '.join(cells)} |")
    unseen, verdicts, ranks = real["unread"], real["verdicts"], real["ranks_of_wrong_labels"]
    lines += [
        "",
        f"Labels: {unseen['read']:,} pictures were opened and read; {verdicts.get('crack', 0)} called Negative show a"
        f" crack, {verdicts.get('no crack', 0)} called Positive show none, {verdicts.get('ambiguous', 0)} are ambiguous"
        f" ([the list](data/audit/metu_labels.csv)). Of {unseen['random']} Negative pictures drawn at random"
        f" {unseen['cracks']} show a crack, so some {unseen['expected']} more (95 % interval"
        f" {unseen['expected_low']} to {unseen['expected_high']}) are to be expected among the"
        f" {unseen['unread']:,} that nobody has read.",
        "",
        "Does the audit find what is there? "
        f"Of {made['planted_copies'][-1]['planted']} copies planted in the sample it finds"
        f" {made['planted_copies'][-1]['recall']:.0%} (precision {made['planted_copies'][-1]['precision']:.0%}); of its"
        f" overlaps, which are known, {made['overlaps_found'][-1]['recall']:.0%} (precision"
        f" {made['overlaps_found'][-1]['precision']:.0%}); of {made['planted_labels']['planted']} labels turned round,"
        f" {made['planted_labels']['recall']:.0%} are among as many first suspects. On METU it finds"
        f" {real['planted_copies'][-1]['recall']:.0%} of planted copies and {real['planted_labels']['recall']:.0%} of"
        f" {real['planted_labels']['planted']} labels turned round. Those are easy: of the {len(ranks)} labels that are"
        f" wrong in truth only {sum(rank <= len(ranks) for rank in ranks)} are among as many first suspects.",
    ]
    worth = {row["trained_with"]: row for row in real["with_corrections"]}
    lines += [
        "",
        "What the corrections are worth to a linear head, on the same split: trained with the labels as given"
        f" {worth['given']['errors_given']} errors by the given and {worth['given']['errors_corrected']} by the"
        f" corrected labels; trained with the corrected ones {worth['corrected']['errors_given']} and"
        f" {worth['corrected']['errors_corrected']}, of {worth['given']['n']:,}.",
    ]
    told = {"the sample": made, "SDNET2018's walls": measured("sdnet")}
    told = {name: found["photos"]["how_good"]["estimated photos"] for name, found in told.items()}
    lines += [
        "",
        "How well photos can be told by looks: of all pairs of images of one photo, the estimate keeps together "
        + " and ".join(
            f"{row['recall']:.0%} on {name} (precision {row['precision']:.0%})" for name, row in told.items()
        )
        + ". `photo-safe` is therefore sure of crops that overlap, not of photos.",
    ]
    return "\n".join(lines)


def _readme_cross() -> str:
    file = config.REFERENCE / README_PROFILE / "08_cross_dataset" / "mobilenetv2-cells" / "metrics.json"
    m = json.loads(file.read_text("utf-8"))
    where, home, there = m["target"], m["home"], m["thresholds"]

    def ranked(row: dict[str, Any]) -> str:
        return f"{row['auroc']:.3f} ({row['low']:.3f}-{row['high']:.3f})"

    def wrong(row: dict[str, Any]) -> str:
        return "-" if row["home_errors"] is None else f"{row['home_errors']:.2%}"

    decided = [
        f"{at['recall']:.0%} at the threshold {at['threshold']} ({at['precision']:.0%} of its alarms are cracks)"
        for at in there[::2]
    ]
    lines = [
        f"Trained on {config.PROFILES[README_PROFILE].title}, tested on {where['images']:,} tiles of"
        f" {where['photos']} of SDNET2018's wall photos, {where['cracked']:,} of them with a crack. No label of theirs"
        f" fitted anything; methods were chosen on {where['tuning_photos']} of the photos. On the other"
        f" {where['photos'] - where['tuning_photos']} ({where['held']:,} tiles), with 95 % intervals from drawing whole"
        " photos, of which there are few, so that these are rather too narrow:",
        "",
        f"| Model or method | AUROC there | within photos | Gain on `{m['report'][0]['method']}` |",
        "|---|---|---|---|",
    ]
    for row in m["report"]:
        gain = "-" if row["gain"] is None else f"{row['gain']:+.3f} ({row['gain_low']:+.3f} to {row['gain_high']:+.3f})"
        lines.append(f"| {row['method']} | {ranked(row)} | {row['auroc_by_photo']:.3f} | {gain} |")
    lines += [
        "",
        "The last row is the network that notebook 08 saves; the method that the tuning photos chose is"
        f" *{m['chosen']}*. Of the cracked tiles there the network finds {decided[0]}; {', '.join(decided[1:])}."
        " Labels of the site tell which threshold is right there. At home it makes"
        f" {home['test']['errors']} errors of {home['test']['n']:,} test images; `{home['best_run']}`, the best by"
        f" validation, makes {home['best_errors']}.",
        "",
        f"What helps, on the {where['tuning_photos']} photos on which methods were chosen (wrong at home: validation"
        " images, at the threshold that is best for them):",
        "",
        "| Method | AUROC there | Wrong at home |",
        "|---|---|---|",
    ]
    lines += [f"| {row['method']} | {ranked(row)} | {wrong(row)} |" for row in m["methods"]]
    lines += [
        "",
        "Labels of one's own site, on photos that chose nothing, half of them labelled, the other half scored"
        f" ({m['adaptation'][0]['draws']} draws):",
        "",
        "| Labelled tiles | AUROC | Gain (95 % of the draws) |",
        "|---|---|---|",
    ]
    for row in m["adaptation"]:
        gain = f"{row['auroc_gain']:+.3f} ({row['auroc_gain_low']:+.3f} to {row['auroc_gain_high']:+.3f})"
        lines.append(f"| {row['n']} | {row['auroc']:.3f} | {gain if row['n'] else '-'} |")
    table = pd.DataFrame(m["robustness"])
    clean = table[table["corruption"] == "none"].set_index("run")["error_rate"]
    rate = table[table["corruption"] != "none"].pivot_table("error_rate", "run", "corruption", sort=False)
    lines += [
        "",
        f"Share of {table['n'].iloc[0]} test images of METU that is wrong, untouched and with corruptions (mean of five"
        " strengths each):",
        "",
        f"| Recipe | untouched | {' | '.join(rate.columns)} |",
        "|---" * (len(rate.columns) + 2) + "|",
    ]
    for run, row in rate.iterrows():
        lines.append(f"| `{run}` | {clean[run]:.1%} | {' | '.join(f'{value:.0%}' for value in row)} |")
    return "\n".join(lines)


def _readme_inspected() -> str:
    file = config.REFERENCE / README_PROFILE / "09_inspect_photos" / "default" / "metrics.json"
    m = json.loads(file.read_text("utf-8"))
    table = pd.DataFrame(m["made"]).astype({"length_error": float})
    table["wrong"] = table["length_error"].abs()
    lines = [
        f"With the network of {config.PROFILES[README_PROFILE].title}, on {len(table)} photos made by code that trained"
        f" nothing, at the threshold {m['threshold']} (medians; *found* is the share of the true pixels of cracks that"
        " have a found one within 4 pixels). The code that made them also made those of the training, with other"
        " seeds: expect less of real walls.",
        "",
        "| Cracks | Photos | IoU | Found | Length is wrong by | At worst |",
        "|---|---|---|---|---|---|",
    ]
    for style, part in [*table.groupby("style"), ("all", table)]:
        middle = part[["iou", "true_found", "wrong"]].median()
        lines.append(
            f"| {style} | {len(part)} | {middle['iou']:.2f} | {middle['true_found']:.0%} | {middle['wrong']:.0%} |"
            f" {part['wrong'].max():.0%} |"
        )
    told = ", ".join(f"`{row['run']}` {row['ratio']:.1f}" for row in m["attention"])
    lines += ["", f"Where the models look (Grad-CAM), times as much at cracks as chance would: {told}."]
    return "\n".join(lines)


def _readme_speed() -> str:
    kept = json.loads((config.ROOT / "benchmarks" / "speed.json").read_text("utf-8"))
    race = {(row["run"], row["images"]): row for row in kept["race"]}
    counts = sorted({row["images"] for row in kept["race"]})
    lines = [
        "From the start of a process to the test metrics, TensorFlow's import left out, all in one run on"
        f" {kept['machine']['cores']} cores; ratios are to the published recipe:",
        "",
        "| Images | As published | Ours, first time | Ours, features kept |",
        "|---|---|---|---|",
    ]
    for count in counts:
        theirs, first, again = (race[name, count] for name in ("published", "ours", "ours, again"))
        lines.append(
            f"| {count:,} | {theirs['total']:.0f} s, {_wrong(theirs)} | {first['total']:.0f} s,"
            f" **{first['ratio']:.1f} times** as fast, {_wrong(first)} (McNemar p = {first['p_value']:.2g}) |"
            f" {again['total']:.1f} s, {again['ratio']:.0f} times |"
        )
    most = counts[-1]
    lines += [
        "",
        f"Variants of the linear head on {most:,} images:",
        "",
        "| Variant | Seconds | Times as fast | Validation loss | Above the lowest | Errors | McNemar p | Peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    variants = [row for (_, n), row in race.items() if n == most and row["val"] and row["run"] != "ours, again"]
    for row in variants:
        name = "160 px, as the recipe has it" if row["run"] == "ours" else row["run"]
        above, error = row["val"]["above"], row["val"]["standard_error"]
        lines.append(
            f"| {name} | {row['total']:.0f} | {row['ratio']:.1f} | {row['val']['loss']:.4f} |"
            f" {f'{above:.4f} ± {error:.4f}' if above else 'lowest'} | {row['errors']} of {row['tested']:,} |"
            f" {row['p_value']:.2g} | {row['peak_gb']:.2f} GB |"
        )
    chosen = race[kept["chosen"], most]
    lines += [
        "",
        "The fastest whose validation loss is less than two standard errors (of the paired difference) above the lowest"
        f" is *{chosen['run']}*:"
        f" {chosen['ratio']:.1f} times as fast as the published recipe, {_wrong(chosen)} against"
        f" {_wrong(race['published', most])}.",
    ]
    score, series = kept["scoring"], kept["series"]
    lines += [
        "",
        f"Scoring runs at {score['of_bound']:.2f} of what decoding and network allow one after the other, and"
        f" {score['to_predict']:.1f} times as fast as Keras's `predict`. A run of the first"
        f" {len(series['notebooks'])} notebooks on the sample takes {series['wall']:.0f} s:"
        f" {series['images']:.0f} s to make the images,"
        f" {series['start'] + _sum(series, 'start'):.0f} s to start, {_sum(series, 'imports'):.0f} s to import, above"
        f" all TensorFlow, {_sum(series, 'stages'):.0f} s for what the notebooks do; that leaves"
        f" {1 - series['explained']:.1%} unexplained.",
        "",
        "`PRECISION=bfloat16` lets notebook 04 compute in bfloat16. Against float32 it trains "
        + ", ".join(f"`{name}` {row['ratio']:.1f} times" for name, row in kept["precision"].items())
        + " as fast on this CPU, which "
        + ("has" if "bf16" in kept["machine"]["cpu"] else "has no")
        + " bfloat16.",
    ]
    return "\n".join(lines)


def _wrong(row: dict[str, Any]) -> str:
    return f"{row['errors']} error{'s' * (row['errors'] != 1)} of {row['tested']:,}"


def _sum(series: dict[str, Any], part: str) -> float:
    return sum(row[part] for row in series["notebooks"])


def _readme_sample() -> str:
    base = config.REFERENCE / "sample"
    runs = [run for run in collect_runs("sample", base=base) if "--" not in run["run"]]
    compared = _compared("sample")
    kept = json.loads((config.ROOT / "benchmarks" / "sample.json").read_text("utf-8"))
    measured, versions = kept["final"], kept["versions"]
    data = runs[0]["data"]
    lines = [
        f"The sample: {data['images']:,} patches, {data['test']['images']:,} of them for the test, from"
        f" {data['test']['groups']} photos; no photo lies on two sides. The intervals and the test below count every"
        " patch as independent, which those of one photo are not; and our backbone has seen many other photos of the"
        " same generator.",
        "",
        "| Recipe | Errors | Accuracy (95 % interval) | AUROC |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{run}` | {row.errors:.0f} of {row.n:,.0f} | {row.accuracy:.4f} ({row.low:.4f}-{row.high:.4f}) |"
        f" {row.auroc:.4f} |"
        for run, row in summarize_runs(runs).iterrows()
    ]
    for test in compared["mcnemar"]:
        lines += ["", f"`{test['a']}` against `{test['b']}`: {test['verdict']} (p = {test['p_holm']:.3g})."]
    lines += [
        "",
        "A linear head fitted on sample patches alone, nothing real in training, on METU's copy-safe test set and on"
        " the walls of 16 SDNET2018 photos:",
        "",
        "| Backbone | Tested on | Accuracy | AUROC | Average precision |",
        "|---|---|---|---|---|",
    ]
    names = {"crackutils": "ours, trained on sample photos alone", "imagenet": "ImageNet, alpha 1.0"}
    for name, title in names.items():
        for target, where in (("metu_test", "METU"), ("sdnet_test", "SDNET2018")):
            s = measured["usefulness"][name][target]
            told = f"{s['accuracy']:.4f} | {s['auroc']:.4f} | {s['average_precision']:.4f}"
            lines.append(f"| {title} | {where} | {told} |")
    real = versions[-1]["realism_auroc"]
    lines += [
        "",
        "A classifier on ImageNet features still tells sample from real patches (AUROC, 0.5 would be perfect):"
        f" METU without crack {real['metu_negative']:.3f}, with crack {real['metu_positive']:.3f},"
        f" SDNET2018 {real['sdnet_negative']:.3f} and {real['sdnet_positive']:.3f}.",
    ]
    return "\n".join(lines)
