"""`ablate verify` on a study that really ran: silent on what was published, and it names a run, a figure and a record by hand;
what is said to mend the runs does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.project import Project

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
LOG = (
    "import sys; from mlflow import MlflowClient; MlflowClient('sqlite:///mlflow.db').log_metric(sys.argv[1], 'test_acc_top1_last', 0.987)"
)
DELETE = "import sys; from mlflow import MlflowClient; MlflowClient('sqlite:///mlflow.db').delete_run(sys.argv[1])"


def _writable(file: Path) -> Path:
    """The file as one of its own: DVC links outs read-only into its cache."""
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    return file


def test_a_finished_study_holds_and_each_thing_changed_by_hand_is_named(finished: Project) -> None:
    """One after the other: nothing, a run deleted in MLflow and one altered, a figure, the report, a record in the store."""
    clean = json.loads(finished.ablate("verify", "--mlflow", "--figures", "--json").stdout)
    assert clean["drift"] == []
    assert clean["notices"] == []
    assert clean["cells"] == 6
    assert clean["checked"]["trials"] == 4
    assert clean["checked"]["runs"] == 4 + 2  # one a trial and one a table
    assert clean["checked"]["figures"] > 0

    cell = json.loads((finished.folder / "tables/backbones.json").read_text())["cells"][1]
    run_id, trial_id = cell["run_ids"][0], cell["trial_ids"][0]
    finished.run(sys.executable, "-c", DELETE, run_id)
    done = finished.ablate("verify", check=1)
    assert f"run {run_id} (trial {trial_id}): deleted in MLflow. It is behind backbones: resnet8 / cam" in done.stdout
    assert "1 differ" in done.stdout
    assert "0 differ" in finished.ablate("verify", "--no-mlflow").stdout

    finished.run(sys.executable, "-c", LOG, cell["run_ids"][1])
    assert "metric test_acc_top1_last is 0.987 but " in finished.ablate("verify", check=1).stdout
    told = finished.ablate("mlflow", "rebuild").stdout
    assert "2 runs made" in told
    assert "`dvc repro -sf run && dvc repro` puts the run ids into the tables" in told
    for arguments in (["-s", "-f", "run"], []):
        finished.run(sys.executable, "-m", "dvc", "repro", *arguments)
    assert "0 differ" in finished.ablate("verify", "--mlflow").stdout
    cell = json.loads((finished.folder / "tables/backbones.json").read_text())["cells"][1]

    figure = _writable(finished.folder / "figures/backbones.accuracy.svg")
    figure.write_text(figure.read_text(encoding="utf-8").replace("M ", "M 1", 1), encoding="utf-8", newline="")
    assert (
        "figures/backbones.accuracy.svg: is not what plan and store give"
        in finished.ablate("verify", "--no-mlflow", "--figures", check=1).stdout
    )

    page = _writable(finished.folder / "report/index.html")
    number = f"{cell['mean'] * 100:.2f} ±"
    page.write_text(page.read_text(encoding="utf-8").replace(number, "98.76 ±", 1), encoding="utf-8", newline="")
    done = finished.ablate("verify", "--no-mlflow", check=1)
    assert "[report]: line " in done.stdout
    assert "98.76" in done.stdout

    (segment,) = (
        path
        for path in (finished.folder / "store/segments").glob("*.records.parquet")
        if trial_id in pq.read_table(path)["trial_id"].to_pylist()
    )
    table = pq.read_table(segment)
    rows = table.to_pylist()
    next(row for row in rows if row["trial_id"] == trial_id)["metric_test_acc_top1_last"] = 0.987
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), segment)
    done = finished.ablate("verify", "--no-mlflow", "--json", check=1)
    problems = {problem["kind"]: problem for problem in reversed(json.loads(done.stdout)["problems"])}
    assert segment.name in problems["store"]["where"]
    assert trial_id in problems["store"]["message"]
    assert problems["record"]["where"] == f"trial {trial_id} [segments/{segment.name}]"
    assert any(
        problem["where"].startswith("backbones: resnet8 / cam [json, csv, md, tex, html, report]")
        for problem in json.loads(done.stdout)["problems"]
    )
