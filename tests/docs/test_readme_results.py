"""The results that the README shows are those of the committed tables and reports."""

import csv
import re

import pytest
import yaml

from tests.docs.reference_tables import README, ROOT

RESULTS = ROOT / "custom/threestudio-reward-sds/results"
EXPERIMENTS = ROOT / "custom/threestudio-reward-sds/experiments"
PAIRS = ["sds", "reward-sds", "vsd", "reward-vsd"]
SCENES = {
    "NeRF, four views": (
        "blocks-3d-nerf.csv",
        ["sds", "reward-sds", "mean-sds", "random-sds", "vsd", "reward-vsd"],
    ),
    "NeRF, single view": ("blocks-3d-single-view.csv", PAIRS),
    "Gaussians, four views": ("blocks-3d-gaussians.csv", PAIRS),
}


def runs_of(table: str) -> list[dict[str, str]]:
    with (RESULTS / table).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("scene", SCENES)
def test_rates_are_those_of_the_committed_runs(scene: str):
    table, methods = SCENES[scene]
    rows = runs_of(table)
    text = README.read_text(encoding="utf-8")
    lines = re.findall(rf"^\| {scene} \| (.*%.*) \|$", text, re.MULTILINE)
    shown = [line.split(" | ") for line in lines]
    assert len(shown) == len(methods)
    for method, (_, count, relation, looks, calls) in zip(methods, shown, strict=True):
        runs = [run for run in rows if run["method"] == method]
        assert count == str(len(runs))
        right = sum(run["relation_ok"] == "1" for run in runs) / len(runs)
        assert relation.strip("*") == f"{100 * right:.1f} %"
        right = sum(run["shape_ok"] == run["color_ok"] == "1" for run in runs) / len(runs)
        assert looks == f"{100 * right:.1f} %"
        assert {run["unet_calls"] for run in runs} == {calls}


@pytest.mark.parametrize("scene", SCENES)
def test_differences_are_those_of_the_committed_report(scene: str):
    page = (RESULTS / SCENES[scene][0]).with_suffix(".md").read_text(encoding="utf-8")
    pattern = rf"^\| {scene} \| Reward(\w+) minus \1 \| (.*) \|$"
    shown = re.findall(pattern, README.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in shown] == ["SDS", "VSD"]
    for name, cells in shown:
        difference = f"reward-{name} minus {name}".lower()
        assert re.search(rf"^\| {difference} \| \d+ \| {re.escape(cells)} \|", page, re.M)


@pytest.mark.parametrize("prior", ["Stable Diffusion 2.1", "MVDream"])
def test_times_of_steps_are_those_of_the_committed_table(prior: str):
    table = RESULTS / "architectures.md"
    row = re.compile(
        rf"^\| {re.escape(prior)} \| [^|]* \|[^|]*\|[^|]*\| 64 \| ([\d.]+) ", re.MULTILINE
    )
    (line,) = re.findall(rf"^\| {re.escape(prior)}.*[0-9] \|$", README.read_text("utf-8"), re.M)
    measured = row.findall(table.read_text("utf-8"))
    assert len(measured) == 8 and re.findall(r"\d\.\d{3}", line) == measured


def test_pictures_are_those_of_the_committed_runs_and_report():
    rows, text = runs_of("blocks-2d.csv"), README.read_text(encoding="utf-8")
    page = (RESULTS / "blocks-2d.md").read_text(encoding="utf-8")
    experiment = yaml.safe_load((EXPERIMENTS / "blocks-2d.yaml").read_text(encoding="utf-8"))
    families = [group for group in experiment["groups"] if group["kind"] == "family"]
    assert len(families) == 4
    for family in families:
        title, names = family["title"], family["methods"]
        ours = names[family["reward"]]
        lines = re.findall(rf"^\| {title} \| (.* \| \d+) \|$", text, re.MULTILINE)
        assert len(lines) == len(names)
        for (method, name), line in zip(names.items(), lines, strict=True):
            shown, count, right, difference, p, reward, calls = line.split(" | ")
            runs = [run for run in rows if run["method"] == method]
            checks = ("relation_ok", "shape_ok", "color_ok")
            share = sum(all(run[c] == "1" for c in checks) for run in runs) / len(runs)
            mean = sum(float(run["reward"]) for run in runs) / len(runs)
            found = (f"{len(runs)}", f"{100 * share:.1f} %", f"{mean:.2f}")
            assert (shown.strip("*"), count, right.strip("*"), reward) == (name, *found)
            assert {run["unet_calls"] for run in runs} == {calls}
            if name == ours:
                assert difference == p == ""
            else:
                line = f"| {ours} minus {name} | {len(runs)} | {difference} | {p} |"
                assert line in page, line
