"""The project's own files: dependencies and lock, imports and sizes, both command lines, paths, sources."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from unittest.mock import Mock

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from crackutils import cli, config, datasets
from crackutils.published import CORRECTED_IN_ALL, PUBLISHED
from crackutils.recipes import RECIPES
from tools import commands

LOCK = config.LOCK.read_text("utf-8")
PROJECT = tomllib.loads((config.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGE = config.ROOT / "crackutils"
HEAVY = {"numpy", "pandas", "cv2", "scipy", "tensorflow", "keras", "matplotlib", "papermill", "nbformat"}
Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch


def python(*arguments: str, cwd: Path = config.ROOT) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "PROFILE", "FORCE", "FROM", "SOURCE")}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def test_the_lock_satisfies_every_dependency_on_each_python_with_hashes_and_no_address() -> None:
    locked = []
    for entry in re.split(r"\n(?=\S)", re.sub(r"^\s*#.*\n", "", LOCK, flags=re.M).strip()):
        pin, *hashes = entry.replace("\\\n", " ").split(" --hash=sha256:")
        assert hashes and all(re.fullmatch(r"[0-9a-f]{64}", word.strip()) for word in hashes), pin
        locked.append(Requirement(pin.strip()))
    assert len(locked) > 100 and re.findall(r"https?:|-index|--find-links|--trusted-host|@ ", LOCK) == []
    extras = PROJECT["optional-dependencies"]
    declared = [Requirement(line) for line in PROJECT["dependencies"] + extras["dev"] + extras["audit"]]
    assert len(declared) > 20
    for want in (want for want in declared if want.name != PROJECT["name"]):  # dev takes audit in
        have = [r.specifier for r in locked if canonicalize_name(r.name) == canonicalize_name(want.name)]
        assert have and all(re.fullmatch(r"==[^*,]+", str(pin)) for pin in have), want
        assert all(want.specifier.contains(str(pin)[2:]) for pin in have), f"{have} are outside {want}"
    names = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    for version in ("3.11.4", "3.11.9", "3.12.4", "3.13.2"):
        assert version in SpecifierSet(PROJECT["requires-python"])
        here = {"python_version": version.rpartition(".")[0], "python_full_version": version}
        chosen = [canonicalize_name(r.name) for r in locked if r.marker is None or r.marker.evaluate(here)]
        assert names <= set(chosen), version
        assert len(chosen) == len(set(chosen)), f"two pins for one package on Python {version}"


def test_conda_and_pre_commit_use_the_locked_versions() -> None:
    text = (config.ROOT / "environment.yml").read_text("utf-8")
    assert re.search(r"^ +- -r requirements\.lock$", text, re.M)
    found = re.search(r"^ +- python=([\d.]+)$", text, re.M)
    assert found and found[1] in SpecifierSet(PROJECT["requires-python"])
    hooks = (config.ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    for name, prefix in (("ruff", "v"), ("nbstripout", "")):
        version = re.search(rf"^{name}==(\S+)", LOCK, re.M)[1]
        assert re.search(rf"/\S*{name}\S*\n\s+rev: {prefix}{re.escape(version)}\n", hooks), name


def test_setup_needs_the_standard_library_only_and_old_pythons_can_read_its_refusal() -> None:
    for name in ("__init__", "__main__", "setup"):
        ast.parse((config.ROOT / "tools" / f"{name}.py").read_text("utf-8"), feature_version=(3, 7))
    done = python("-S", "-c", "import tools.setup; print(tools.setup.VENV)")  # without site-packages
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(config.ROOT / ".venv"), "")
    setup = "sys.argv = ['tools', 'setup']; runpy.run_module('tools', run_name='__main__')"
    for version in ((3, 9, 1), (3, 14, 0)):
        done = python("-S", "-c", f"import runpy, sys; sys.version_info = {version}; {setup}")
        refusal = r"error: crackutils needs Python 3\.11, 3\.12 or 3\.13, .* PYTHON=python3\.12\.\n"
        assert (done.returncode, done.stdout) == (2, "") and re.fullmatch(refusal, done.stderr)
    done = python("-S", "-m", "tools", "run", "all")
    assert (done.returncode, done.stderr) == (2, "error: click is not installed. Run make setup first.\n")


@pytest.mark.parametrize("module", ["crackutils", "tools"])
def test_a_mistake_ends_the_process_with_status_2_without_loading_heavy_libraries(module: str) -> None:
    done = python("-X", "importtime", "-m", module, "rnu")
    *imports, error = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "") and error.startswith("error: ")
    modules = {line.rpartition("|")[2].strip() for line in imports}
    assert modules & {"crackutils.config", *HEAVY} == {"crackutils.config"}


PLANTED = {  # upward imports, and what the lint says of them
    "crackutils/metrics.py": ("crackutils.inspection import report", "metrics -> crackutils.inspection.report"),
    "crackutils/images.py": ("crackutils import runs", "crackutils.images -> crackutils.runs"),
    "crackutils/splits/make.py": ("crackutils.synthetic import scene", "splits.make -> crackutils.synthetic.scene"),
    "crackutils/audit/labels.py": ("crackutils import cli", "crackutils.audit.labels -> crackutils.cli"),
    "crackutils/batches.py": ("tools import notebooks", "crackutils.batches -> tools.notebooks"),
    "crackutils/inspection/mask.py": ("crackutils.inspection import folder", ".mask -> .folder"),
    "tools/notebooks.py": ("tools import plan_series", ".plan_series -> .notebooks"),
}


def test_the_built_package_is_whole_and_an_upward_import_inside_a_function_fails_the_lint(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("crackutils", "tools"):
        shutil.copytree(config.ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(config.ROOT / name, checkout)
    ours = {path.relative_to(checkout).as_posix() for path in (checkout / "crackutils").rglob("*") if path.is_file()}
    flags = ("-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path))
    python("-m", "pip", "wheel", *flags, str(checkout)).check_returncode()
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as built:
        assert {name for name in built.namelist() if ".dist-info/" not in name} == ours
    command = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache', '--no-logo'])"
    done = python("-c", command, cwd=checkout)
    assert done.returncode == 0 and " 0 broken" in done.stdout, done.stdout + done.stderr
    for file, (what, _) in PLANTED.items():
        source = (checkout / file).read_text("utf-8")
        (checkout / file).write_text(f"{source}\n\ndef planted():\n    from {what}\n", "utf-8")
    done = python("-c", command, cwd=checkout)
    assert done.returncode == 1 and all(told in done.stdout for _, told in PLANTED.values()), done.stdout


def lines(paths: Iterable[Path]) -> int:
    return sum(path.read_text("utf-8").count("\n") for path in paths)


def test_the_house_stays_small() -> None:
    entrances = {PACKAGE / name for name in ("cli.py", "scoring.py", "__main__.py")}
    assert lines(set(PACKAGE.glob("*.py")) - entrances) <= 3000 and lines(PACKAGE.rglob("*.py")) <= 16_090
    assert lines((config.ROOT / "tests").glob("*.py")) <= 12_723 and lines([config.ROOT / "README.md"]) <= 150
    sources = [path for name in ("crackutils", "tools", "tests") for path in (config.ROOT / name).rglob("*.py")]
    assert {str(path): lines([path]) for path in sources if lines([path]) > 600} == {}


MISTAKES = [
    ("tools rnu", "rnu"),
    ("tools run", "number of a notebook"),
    ("tools run 99", "notebook=99 is unknown"),
    ("tools run all PROFILE=metu-hlaf", "did you mean metu-half?"),
    ("tools run 03 EPOCH=3", "did you mean EPOCHS?"),
    ("tools run 03 FORCE=perhaps", "FORCE=perhaps must be 1 or 0"),
    ("tools run 03 RECIPE=mobilnetv2", "did you mean mobilenetv2?"),
    ("tools run 04 RECIPE=mobilenetv2", "simple-cnn"),
    ("tools run 01 RECIPE=mobilenetv2", "RECIPE"),
    ("tools run 03 RECIPE=chernxi-mobilenetv3small", "WEIGHTS=imagenet or random"),
    ("tools run recipes RECIPE=mobilenetv2", "parameter=RECIPE is unknown"),
    ("tools run --profile sample 03", "--profile"),
    ("tools recipes simple-cnn", "simple-cnn"),
    ("tools docs PROFILE=sample", "make run-all PROFILE=sample"),
    ("tools verify EPOCHS=3", "EPOCHS"),
    ("tools tensorboard PROFILE=sample", "make run-all"),
    ("tools pretrain PROFILE=sample", "PROFILE"),
    ("tools train-detector PROFILE=sample", "Choose one of: metu, metu-half"),
    ("tools data FROM=no/such/archive.rar", "archive.rar"),
    ("tools data SOURCE=metro", "did you mean metu?"),
    ("crackutils rnu", "rnu"),
    ("crackutils score no-such-folder --out x.csv --model y", "no-such-folder"),
    ("crackutils score no-such-folder", "--out"),
    ("crackutils inspect --out x", "PHOTOS"),
    ("crackutils inspect '' --out x --model y", "The name is empty"),
    ("crackutils inspect tests --out '' --model y", "The name is empty"),
    ("crackutils score '' --out x.csv --model y", "The name is empty"),
    ("crackutils evaluate x.csv --profile metu-hlaf", "did you mean metu-half?"),
    ("crackutils evaluate-masks x", "TRUTH"),
    ("crackutils splits", "--export"),
    ("crackutils app --port 99999", "--port"),
]


def test_lab_opens_the_project_clean_leaves_corrections_and_setup_leaves_links(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setattr(config, "ROOT", tmp_path)
    monkeypatch.setattr(commands, "call", called := Mock(return_value=0))
    assert commands.main(["lab"]) == 0
    assert {str(tmp_path), "--LabApp.default_url=/lab/tree/notebooks"} < set(called.call_args[0][0])
    for name in ("cache", "desks"):
        (tmp_path / "data" / name / "one").mkdir(parents=True)
    assert commands.main(["clean"]) == 0
    assert os.listdir(tmp_path / "data") == ["desks"]
    (link := tmp_path / ".venv").symlink_to(tmp_path / "data")
    for name, path in (("VENV", link), ("STAMP", link / "stamp")):
        monkeypatch.setattr(commands.setup, name, path)
    monkeypatch.setattr(commands.setup, "call", called := Mock(return_value=1))
    assert commands.main(["setup"]) == 2 and ".venv is a link" in capsys.readouterr().err and not called.called


@pytest.mark.parametrize(("call", "says"), MISTAKES, ids=[call for call, _ in MISTAKES])
def test_a_mistake_ends_in_one_line(call: str, says: str, tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    program, *arguments = shlex.split(call)
    assert {"tools": commands.main, "crackutils": cli.main}[program](arguments) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ") and told.err.count("\n") == 1, told.err
    assert says in told.err and "Usage" not in told.err and told.out == "" and not (tmp_path / "results").exists()


def test_variables_of_make_arrive_unquoted_and_unknown_ones_are_refused(monkeypatch: Patch, capsys: Capture) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("crackutils.sources.fetch.fetch", Mock(side_effect=KeyboardInterrupt))
        assert commands.main(["data"]) == 130 and "continues where it stopped" in capsys.readouterr().err
    quoted = 'it\'s a "folder" with $HOME; echo'
    cases = [("data", "FROM", quoted, f"FROM={quoted} does not exist")]
    cases += [("recipes", "RECIPE", "simple-cnn", "recipes takes no setting, but RECIPE=simple-cnn is given. Leave it")]
    for command, name, value, says in cases:
        monkeypatch.setenv("MAKEFLAGS", f"s -- {name}=" + value.replace(" ", r"\ "))
        monkeypatch.setenv(name, value)
        assert commands.main(["--make", command]) == 2
        told = capsys.readouterr()
        assert told.err.startswith(f"error: {says}") and told.err.count("\n") == 1 and told.out == ""


def test_every_make_target_calls_a_command_that_exists() -> None:
    makefile = (config.ROOT / "Makefile").read_text("utf-8")
    called = re.findall(r"^\t(?:\$\(RUN\)|@\$\(PYTHON\) -m tools(?: --make)?) ([\w-]+)", makefile, re.M)
    assert len(called) == len(re.findall(r"^[a-z%-]+:.*##", makefile, re.M)) - 1  # but for help
    assert set(called) == set(commands.cli.commands)
    workflow = (config.ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    wanted = re.findall(r"\bmake ([\w-]+)", workflow + (config.ROOT / ".ci" / "run").read_text("utf-8"))
    assert {re.sub("^run-.*", "run-%", name) for name in wanted} <= set(re.findall(r"^([a-z%-]+):", makefile, re.M))


def test_recipes_lists_each_with_its_source_sizes_result_and_corrections(monkeypatch: Patch, capsys: Capture) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CRACKUTILS_THREADS"):
        monkeypatch.setenv(name, "2")  # the command sets them; here they are put back
    assert commands.main(["recipes"]) == 0
    told = capsys.readouterr()
    blocks = dict(re.findall(r"^(\S+) +(run-0[34] .*\n(?: .*\n)+)", told.out, re.M))
    assert told.err == "" and list(blocks) == list(RECIPES)
    for name, words in {
        "chernxi-mobilenetv3small": "run-03 1,023,874 84,754 120 1+1+1 5 errors in 1,600 (accuracy",
        "chernxi-cnn-120": "run-04 7,530 7,530 120 14 4 errors in 1,600 (accuracy 0.9975; notebook",
        "marzed7-cnn-256": "run-04 7,387,649 7,387,649 256 3 65 errors in 4,000 (accuracy",
        "bitterfrown-mobilenetv2": "run-03 2,260,546 2,562 160 10 no result that can be read",
    }.items():
        assert " ".join(blocks[name].split()).startswith(words)
    for name, block in blocks.items():
        first, *notes = (line.strip() for line in block.rstrip("\n").split("\n"))
        if source := PUBLISHED.get(name):
            assert notes == [f"{RECIPES[name].title}; {source.source}", *(f"- {line}" for line in source.corrections)]
        assert source or notes == [RECIPES[name].title]
        assert first.endswith("  ours") == (source is None)
    assert all(line in told.out for line in CORRECTED_IN_ALL)


def test_files_are_small_and_name_no_place_on_somebodys_machine() -> None:
    if not (config.ROOT / ".git").exists():
        pytest.skip("no git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]  # committed yet or not
    listed = subprocess.run(command, cwd=config.ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    texts = {name: (config.ROOT / name).read_bytes() for name in listed if (config.ROOT / name).is_file()}
    assert "pyproject.toml" in texts
    machine = re.compile(rb"(?<![\w.~:}>-])/(?:work|home|root|Users)/\w|\b[A-Z]:\\+Users")
    larger = {"crackutils/detector/shipped/model/model.weights.h5": 3_000_000}
    larger |= {"crackutils/backbone/mobilenetv2_035.npz": 1_500_000, "data/audit/metu_groups.csv": 600_000}
    for name, text in texts.items():
        assert len(text) <= larger.get(name, 500_000), name
        if b"\0" not in text:  # else it is no text
            assert not machine.search(text), name
            assert b"../" + b"shared" not in text or name == ".ci/run", name


def test_sources_can_be_checked_and_cited_and_what_is_made_here_has_a_seed_of_its_own() -> None:
    metu = (sources := datasets.sources())["metu"]
    assert metu["size"] > 10**8 and re.fullmatch(r"[0-9a-f]{64}", metu["sha256"])
    assert re.fullmatch(r"10\.\d{4,}/\S+", metu["doi"])
    assert all(re.match(r"https://[^/]+/.+", address["url"]) for address in metu["addresses"]) and metu["addresses"]
    assert {profile.source for profile in config.PROFILES.values()} <= set(sources)
    made = {name: entry for name, entry in sources.items() if "seed" in entry}
    assert set(made) == {"sample", "smoke", "walls"}
    assert all(entry.get("patches", entry.get("photos")) > 0 for entry in made.values())
    assert len({entry["seed"] for entry in made.values()}) == len(made)
    for name in set(sources) - {*made, "own"}:
        assert sources[name]["licence"] == "CC BY 4.0" and sources[name]["doi"] in sources[name]["citation"], name
