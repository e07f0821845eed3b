"""Tables of README and docs follow from the reference; links, pictures and commands of the docs exist."""

import doctest
import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from crackutils import cli, config
from tools import commands
from tools.reference import PICTURES
from tools.site import MODULES
from tools.tables import PROFILE, results_table, write_results

PAGES = [config.ROOT / "README.md", *sorted((config.ROOT / "docs").glob("*.md"))]
PAGES += [config.ROOT / "tools" / "benchmarks" / "README.md", config.PACKAGE / "backbone" / "README.md"]
reference = pytest.mark.skipif(not (config.REFERENCE / PROFILE).is_dir(), reason=f"no reference/{PROFILE} yet")


def links(page: Path) -> list[str]:
    return [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))]


@reference
def test_readme_shows_the_reference() -> None:
    assert write_results(check=True), "README.md is not up to date. Run make tables."


@reference
def test_a_changed_digit_is_noticed_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = shutil.copy(config.ROOT / "README.md", tmp_path / "README.md")
    text = readme.read_text("utf-8")
    monkeypatch.setattr(config, "ROOT", tmp_path)
    for cell in ("0.9995", "1 of 1,989", "24 of 1,600", "8.2 min", "14,020"):
        changed = text.replace(cell, cell.replace(cell[0], "7", 1), 1)
        assert changed != text
        readme.write_text(changed, "utf-8")
        assert not write_results(check=True)
        assert readme.read_text("utf-8") == changed  # a check changes nothing
        assert not write_results()
        assert readme.read_text("utf-8") == text
    for mark in ("<!-- results:begin -->", "<!-- results:end -->"):
        readme.write_text(text.replace(mark, ""), "utf-8")
        with pytest.raises(config.CrackutilsError, match=r"results:begin.*results:end"):
            write_results()


@reference
def test_the_table_has_ours_theirs_and_gaps() -> None:
    rows = {line.split("|")[1].strip(): re.split(r"\s*\|\s*", line)[2:-1] for line in results_table().splitlines()[2:]}
    assert rows["`mobilenetv2` (ours)"][0].endswith(" of 1,989") and rows["`mobilenetv2` (ours)"][3] == "-"
    assert rows["`marzed7-cnn-256`"][3] == "65 of 4,000"


def test_without_a_reference_the_profile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "REFERENCE", tmp_path)
    with pytest.raises(config.CrackutilsError, match=PROFILE):
        results_table()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(config.ROOT).as_posix())
def test_links_and_pictures_lead_to_files(page: Path) -> None:
    relative = [link for link in links(page) if link and not re.match(r"[a-z]+:", link)]
    assert [link for link in relative if not (page.parent / link).exists()] == []


def test_the_reference_holds_the_pictures_that_the_docs_show() -> None:
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page) if link.endswith(".png")}
    base = config.REFERENCE.resolve()
    held = {base / p / Path(name).parent.parent / Path(name).name for p in PICTURES for name in PICTURES[p]}
    assert {file for file in shown if file.is_relative_to(base)} == held


def test_the_error_of_widths_is_the_measured_one() -> None:
    measured = json.loads((config.ROOT / "tools" / "benchmarks" / "widths.json").read_text("utf-8"))["profiles"]["ours"]
    text = " ".join((config.ROOT / "docs" / "whole-photos.md").read_text("utf-8").split())
    assert f"On {measured['widths']} grey profiles" in text
    assert f"mean error is {measured['all']['mae']:.2f} pixels" in text


def read_page(name: str, notebook: str) -> tuple[str, dict[str, Any]]:
    """Return a page of docs/ and the metrics of a notebook on metu-half."""
    file = next((config.REFERENCE / "metu-half").glob(f"{notebook}_*/*/metrics.json"))
    return (config.ROOT / "docs" / name).read_text("utf-8"), json.loads(file.read_text("utf-8"))


@reference
def test_the_tables_of_the_audit_are_those_of_the_reference() -> None:
    page, found = read_page("audit.md", "07")
    for method, seen in found["relatives_in_training"].items():
        rows = [row for row in found["leakage"] if row["method"] == method]
        shares = {row["head"]: "{error_rate:.2%} ({low:.2%}-{high:.2%})".format(**row) for row in rows}
        cells = [seen["test"], seen["with copy"], seen["with overlap"]]
        row = [method, *(f"{cell:,}" for cell in cells), *(shares[head] for head in ("linear", "dense", "nearest"))]
        assert f"| {' | '.join(row)} |" in page
    for near, name in (("copy", "the same crop"), ("overlap", "an overlap")):
        for head in ("linear", "dense", "nearest"):
            rows = [r for r in found["leakage_by_relative"] if (r["head"], r["near"]) == (head, near)]
            rows.sort(key=lambda row: row["in_training"])
            cells = ["{errors} of {n:,} wrong, {error_rate:.2%}".format(**row) for row in rows]
            assert f"| {head} | {name} | {' | '.join(cells)} |" in page
    text, unread = " ".join(page.split()), found["unread"]
    told = "about {expected} more (95 % interval {expected_low} to {expected_high})", "suspects | {random} | {cracks} |"
    assert all(one.format(**unread) in text for one in told)
    tuned = config.REFERENCE / PROFILE / "03_transfer_learning" / "mobilenetv2--labels-corrected" / "metrics.json"
    errors = json.loads(tuned.read_text("utf-8"))["test"]["errors"]
    assert f"to {errors} by the corrected ones" in text
    for row in found["with_corrections"]:
        assert re.search(r"makes {errors_given}\D* and {errors_corrected}\b".format(**row), text)


@reference
def test_the_tables_of_transfer_are_those_of_the_reference() -> None:
    page, found = read_page("transfer.md", "08")
    for row in found["report"]:
        gain = "{gain:+.3f} ({gain_low:+.3f} to {gain_high:+.3f})".format(**row) if row["gain"] is not None else "-"
        scores = "{auroc:.3f} ({low:.3f}-{high:.3f}) | {auroc_by_photo:.3f}".format(**row)
        assert f"| {row['method']} | {scores} | {gain} |" in page
    for row in found["methods"]:
        home = "-" if row["home_least_errors"] is None else f"{row['home_least_errors']:.2%}"
        assert "| {method} | {auroc:.3f} ({low:.3f}-{high:.3f}) | ".format(**row) + f"{home} |" in page
    for row in found["adaptation"]:
        gain = "{auroc_gain:+.3f} ({auroc_gain_low:+.3f} to {auroc_gain_high:+.3f})".format(**row) if row["n"] else "-"
        assert f"| {row['n']} | {row['auroc']:.3f} | {gain} |" in page
    said = " ".join(re.findall(r"^(?:In short|Masks of synthetic photos help).*?\n\n", page, re.M | re.S))
    quoted = set(re.findall(r"0\.\d{3}", said))
    assert len(quoted) == 4 and quoted <= {f"{row['auroc']:.3f}" for row in found["report"] + found["methods"]}


def test_commands_that_the_docs_name_exist() -> None:
    targets = set(re.findall(r"^([a-z%-]+):", (config.ROOT / "Makefile").read_text("utf-8"), re.M))
    known = {"make": targets, "tools": set(commands.cli.commands), "crackutils": set(cli.cli.commands)}
    for page in PAGES:
        text = page.read_text("utf-8")
        called = [("make", re.sub(r"^run-.*", "run-%", name)) for name in re.findall(r"[`\n]make ([a-z0-9-]+)", text)]
        called += re.findall(r"python -m (tools|crackutils) ([a-z]+)", text)
        assert [(program, name) for program, name in called if name not in known[program]] == [], page
        modules = re.findall(r"python -m (tools\.[\w.]*\w)", text)
        assert [name for name in modules if not importlib.util.find_spec(name)] == [], page


def test_examples_in_docstrings_give_what_they_show() -> None:
    modules = [importlib.import_module(f"crackutils.{name}") for group in MODULES.values() for name in group]
    tried = [doctest.testmod(module) for module in modules]
    assert sum(one.failed for one in tried) == 0 and sum(one.attempted for one in tried) >= 5
