"""The whole pipeline with real DVC, real MLflow and real training."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.project import Project

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def trial_ids(project: Project) -> set[str]:
    return {entry["trial_id"] for entry in json.loads(project.ablate("trials", "--json").stdout)}


def trained(output: str) -> int:
    """How many trials a repro trained, by what its run stage said; 0 when the stage did not run."""
    lines = [line for line in output.splitlines() if "trained now" in line]
    return int(lines[-1].split("(")[1].split()[0]) if lines else 0


def runs_in_mlflow(project: Project) -> dict[str, int]:
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        rows = database.execute(
            "select t.value, count(*) from tags t join runs r on r.run_uuid = t.run_uuid"
            " where t.key = 'kind' and r.lifecycle_stage = 'active' group by t.value"
        ).fetchall()
    return dict(rows)


def test_repro_makes_tables_that_agree_with_pandas(finished: Project) -> None:
    """Every cell of the JSON tables is what pandas computes from results/trials.parquet, and all promised files exist."""
    for name in ("plan/trials.parquet", "results/trials.parquet", "results/history.parquet", "metrics.json", "report/index.html"):
        assert (finished.folder / name).stat().st_size > 0
    frame = pd.read_parquet(finished.folder / "results/trials.parquet").set_index("trial_id")
    assert set(frame.state) == {"complete"}
    assert len(frame) == 4
    for table in ("backbones", "loss_weight"):
        for suffix in ("md", "tex", "html", "csv", "json"):
            assert (finished.folder / f"tables/{table}.{suffix}").stat().st_size > 0
        cells = json.loads((finished.folder / f"tables/{table}.json").read_text())["cells"]
        assert len(cells) == (2 if table == "backbones" else 4)
        for cell in cells:
            values = frame.loc[cell["trial_ids"], cell["metric"]]
            assert cell["mean"] == pytest.approx(values.mean(), rel=1e-12)
            assert cell["sd"] == pytest.approx(values.std(ddof=1), rel=1e-9, abs=1e-15)
            assert cell["n"] == 2
            assert set(frame.loc[cell["trial_ids"], "run_id"]) == set(cell["run_ids"])
            assert len(cell["run_ids"]) == 2
    assert not [name for name in frame if name.startswith("panel_")]
    history = pd.read_parquet(finished.folder / "results/history.parquet")
    assert sorted(history.groupby("trial_id").epoch.apply(list)) == [[1, 2]] * 4


def test_repro_draws_what_the_networks_look_at(finished: Project) -> None:
    """Every trial has pictures of the images that were prepared; each table has its figures, in the report and in MLflow."""
    panels = pd.read_parquet(finished.folder / "results/panels.parquet")
    images = pd.read_parquet(finished.folder / "data/images.parquet")
    assert set(panels.trial_id) == trial_ids(finished)
    for panel in panels.itertuples():
        assert panel.panel_digest == images.data_digest[0]
        assert list(panel.panel_index) == list(images["index"])
        assert list(panel.panel_label) == list(images.label) == list(range(6))
        assert len(panel.panel_cam) == len(panel.panel_caam) == 6 * panel.panel_height * panel.panel_width
        assert len(panel.panel_xy) == 4 * len(panel.panel_point_label)
    names = {path.name for path in (finished.folder / "figures").glob("*.svg") if "maps" in path.name or "features" in path.name}
    assert names == {"backbones.maps_1_resnet8.svg", "backbones.features.svg", "loss_weight.maps.svg", "loss_weight.features.svg"}
    page = (finished.folder / "report/index.html").read_text(encoding="utf-8")
    assert page.count('role="img" aria-label="Class activation maps') == 2
    assert page.count('role="img" aria-label="Scatter plots') == 2
    kept = {path.name for path in (finished.folder / "mlartifacts").rglob("*.svg")}
    assert names <= kept


def test_second_repro_does_nothing_even_after_a_move(finished: Project) -> None:
    """In a copy at another path nothing is trained, no stage runs, and MLflow has one run a trial and a table."""
    done = finished.run("dvc", "repro")
    assert "Running stage" not in done.stdout
    assert runs_in_mlflow(finished) == {"trial": 4, "table": 2}


def test_results_come_back_from_the_store_alone(finished: Project) -> None:
    """With all outs and DVC's cache gone, repro rebuilds equal tables without training, and mirrors nothing twice."""
    before = {path.name: path.read_bytes() for path in (finished.folder / "tables").iterdir()}
    for name in ("plan", "results", "tables", "curves", "figures", "report", ".dvc/cache", "data"):
        shutil.rmtree(finished.folder / name)
    (finished.folder / "dvc.lock").unlink()
    done = finished.run("dvc", "repro")
    assert trained(done.stdout) == 0
    after = {path.name: path.read_bytes() for path in (finished.folder / "tables").iterdir()}
    assert after == before
    assert runs_in_mlflow(finished) == {"trial": 4, "table": 2}


def test_another_seed_and_another_row_train_exactly_their_trials(finished: Project) -> None:
    """One seed more adds two trials, one backbone more adds its own; the stored ones keep their ids."""
    first = trial_ids(finished)
    finished.set_param("seeds: null", "seeds: 3")
    done = finished.run("dvc", "repro")
    assert trained(done.stdout) == 2
    second = trial_ids(finished)
    assert first < second
    assert len(second - first) == 2
    finished.write_study(backbones="resnet8, densenet_bc_10_8")
    plan = json.loads(finished.ablate("plan", "--json").stdout)
    assert plan["totals"] == {"new": 6, "stored": 6, "shared": 6, "blocked": 0, "failed": 0}
    assert plan["tables"]["backbones"]["new"] == 6


def test_code_identity_ignores_comments_and_sees_arithmetic(finished: Project) -> None:
    """A comment in the loop trains nothing; a changed update rule makes every trial new; a foreign loss none."""
    first = trial_ids(finished)
    loop = finished.folder / "pipeline/training/loop.py"
    text = loop.read_text(encoding="utf-8")
    loop.write_text(
        text.replace("            optimizer.step()\n", "            # the update\n            optimizer.step()\n"), encoding="utf-8"
    )
    assert loop.read_text(encoding="utf-8") != text
    assert trained(finished.run("dvc", "repro").stdout) == 0
    assert trial_ids(finished) == first
    loop.write_text(
        text.replace("            optimizer.step()\n", "            optimizer.step()\n            optimizer.step()\n"), encoding="utf-8"
    )
    assert not trial_ids(finished) & first
    loop.write_text(text, encoding="utf-8")
    other = finished.folder / "pipeline/losses/unused.py"
    other.write_text(
        "from pipeline.losses import register\n\n\n@register('unused')\ndef unused():\n    return lambda inputs: inputs.logits_BK.sum()\n"
    )
    assert trial_ids(finished) == first


def test_verify_names_a_cell_changed_by_hand(finished: Project) -> None:
    """`ablate verify` passes on what was published and names the cell that somebody edited."""
    assert "0 differ" in finished.ablate("verify").stdout
    file = finished.folder / "tables/backbones.json"
    content = json.loads(file.read_text())
    content["cells"][0]["mean"] += 0.001
    file.unlink()  # DVC links outs read-only
    file.write_text(json.dumps(content))
    done = finished.ablate("verify", check=1)
    assert "backbones: resnet8 / ce" in done.stdout
    assert "1 differ" in done.stdout


def test_dvc_metrics_and_plots_have_something_to_show(finished: Project) -> None:
    """`dvc metrics show` lists cells and `dvc plots show` renders the figures."""
    shown = finished.run("dvc", "metrics", "show", "--json").stdout
    assert "resnet8" in shown
    finished.run("dvc", "plots", "show", "-o", "plots")
    page = (finished.folder / "plots/index.html").read_text(encoding="utf-8")
    assert "figures" in page
    assert list((finished.folder / "plots/static").glob("*accuracy.png"))


def test_explanations_of_a_trial(finished: Project) -> None:
    """`ablate why` names what an unstored trial differs in, and status and trials speak JSON."""
    finished.set_param("seeds: null", "seeds: 3")
    new = next(e for e in json.loads(finished.ablate("trials", "--json").stdout) if e["state"] == "planned")
    answer = json.loads(finished.ablate("why", new["trial_id"], "--json").stdout)
    assert answer["state"] == "planned"
    assert list(answer["nearest"]["differs"]) == ["seed"]
    assert Path(finished.folder / "store").is_dir()
