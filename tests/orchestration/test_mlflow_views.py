"""What the MLflow UI opens with: views of the run table in the form its own code reads, descriptions, links."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.orchestration.mirror.views import KIND, NOTE, VIEW, WRITTEN, experiment_tags, natural_order, view_links

METRICS = ["test_acc_top1_last", "test_caam_energy_last"]


def trial(arm: str, seed: int, **tags: str) -> dict[str, str]:
    """Tags of the run of a trial."""
    cell = f"resnet8 · {arm}"
    own = {"kind": "trial", "study": "quick", "tables": "backbones, loss_weight", "trial_id": f"{arm}{seed}", "seed": str(seed)}
    names = {"cell": cell, "cell_id": f"c{arm}", "order": f"{cell} {seed}", "arm": arm, "loss": f"l {arm}", "backbone": "resnet8"}
    return own | names | {"state": "complete", "mlflow.runName": f"{cell} · seed {seed}"} | tags


TRIALS = [trial(arm, seed) for arm in ("ce", "cam") for seed in range(2)]


def state(key: str, trials: list[dict[str, str]] = TRIALS) -> dict[str, Any]:
    """The state of a view, unpacked as the UI does it: an envelope whose `state` is a string of JSON."""
    envelope = json.loads(experiment_tags("quick", "7", trials, METRICS)[VIEW + key])
    assert isinstance(envelope["name"], str)
    assert type(envelope["createdAt"]) is type(envelope["updatedAt"]) is int
    assert not envelope["state"].startswith("deflate;")
    return dict(json.loads(envelope["state"]))


def test_trials_are_listed_by_name_with_what_varies_and_what_was_measured() -> None:
    """Columns: metrics of the tables, factors with more than one level, the seed; not the loss that the arm stands for."""
    columns = ["metrics.`test_acc_top1_last`", "metrics.`test_caam_energy_last`", "tags.`arm`", "tags.`seed`"]
    view = state("trials")
    assert view["selectedColumns"] == columns
    assert [name for name in view["columnOrder"] if name in columns] == columns
    assert (view["searchFilter"], view["orderByKey"], view["orderByAsc"]) == ("tags.kind = 'trial'", "tags.`order`", True)
    assert "tags.`loss`" in state("trials", [trial("ce", 0, loss="a"), trial("ce", 0, loss="b")])["selectedColumns"]
    assert state("trials", [*TRIALS, trial("ce", 2, reason="diverged")])["selectedColumns"][-1] == "tags.`reason`"


def test_cells_are_closed_groups_with_the_mean_over_seeds() -> None:
    """One line a cell; two cells that are called the same stay two."""
    view = state("cells")
    assert view["groupBy"] == {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "cell"}]}
    assert view["groupsExpanded"] == {"tag.cell.resnet8 · cam": False, "tag.cell.resnet8 · ce": False}
    namesake = state("cells", [*TRIALS, trial("ce", 0, cell_id="other")])
    assert [key["groupByData"] for key in namesake["groupBy"]["groupByKeys"]] == ["cell", "cell_id"]
    assert "tag.cell.resnet8 · ce,tag.cell_id.other" in namesake["groupsExpanded"]


def test_groups_show_the_printed_mean_unless_that_tears_a_cell_apart() -> None:
    """Once all trials of a cell are in the tables, its line carries their numbers; of a metric that no table shows there are none."""
    printed = [{**tags, "mean.test_acc_top1_last": f"{tags['arm']} 90.77 ± 0.68 %"} for tags in TRIALS]
    assert [key["groupByData"] for key in state("cells", printed)["groupBy"]["groupByKeys"]] == ["cell", "mean.test_acc_top1_last"]
    assert "tag.cell.resnet8 · ce,tag.mean.test_acc_top1_last.ce 90.77 ± 0.68 %" in state("cells", printed)["groupsExpanded"]
    for fewer in (printed[1:] + TRIALS[:1], [{**tags, "mean.test_nll_last": "0.2"} for tags in TRIALS]):
        assert [key["groupByData"] for key in state("cells", fewer)["groupBy"]["groupByKeys"]] == ["cell"]


def test_places_in_tables_are_filters_and_no_factors() -> None:
    """A row is offered as a filter; rows, columns and means are no columns of their own."""
    placed = [{**tags, "row.loss_weight": tags["seed"], "column.backbones": tags["arm"], "mean.x": tags["seed"]} for tags in TRIALS]
    assert state("trials", placed)["selectedColumns"] == state("trials")["selectedColumns"]
    note = experiment_tags("quick", "7", placed, METRICS)[NOTE]
    assert "tags.kind = 'trial' AND tags.`row.loss_weight` = '0'" in note
    assert "| `row.loss_weight` |" not in note
    assert state("tables")["selectedColumns"] == ["tags.`numbers`", "tags.`title`"]


def test_tags_fit_into_a_study_of_any_size_and_do_not_change_from_run_to_run() -> None:
    """MLflow takes 20,000 characters in a tag; equal runs in another order give equal tags."""
    many = [trial(f"arm with a rather long name {number}", seed) for number in range(400) for seed in range(3)]
    tags = experiment_tags("quick", "7", many, METRICS)
    assert max(map(len, tags.values())) < 20_000
    assert experiment_tags("quick", "7", many[::-1], METRICS)[VIEW + "trials"] == tags[VIEW + "trials"]
    assert experiment_tags("quick", "7", TRIALS[::-1], METRICS) == experiment_tags("quick", "7", TRIALS, METRICS)
    assert experiment_tags("quick", "7", [], []).keys() == tags.keys()  # of an experiment without runs, too


def test_description_says_what_this_is_and_how_to_filter_it() -> None:
    """Links to the views, levels of the factors, filters to paste, the command that makes it again."""
    tags = experiment_tags("quick", "7", TRIALS, METRICS)
    assert tags[KIND] == "custom_model_development"
    note = tags[NOTE]
    assert "[Trials](#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=trials)" in note
    assert "| arm | `cam`, `ce` |" in note
    assert "tags.kind = 'trial' AND tags.tables LIKE '%loss_weight%'" in note
    assert "tags.kind = 'trial' AND tags.arm = 'ce'" in note
    assert "ablate mlflow rebuild --study quick" in note
    assert note.endswith(WRITTEN)


def test_links_name_the_views_that_are_there() -> None:
    """An experiment of somebody else has no views of ours."""
    tags = [{"key": VIEW + key, "value": "{}"} for key in ("tables", "trials")]
    runs = "http://h:1/#/experiments/7/runs"
    assert view_links({"name": "quick", "experiment_id": "7", "tags": tags}, "http://h:1") == [
        f"Experiment 'quick': {runs}?workflowType=machine_learning",
        f"  Trials: {runs}?workflowType=machine_learning&viewStateShareKey=trials",
        f"  Tables: {runs}?workflowType=machine_learning&viewStateShareKey=tables",
    ]
    assert len(view_links({"name": "other", "experiment_id": "8"}, "http://h:1")) == 1


@pytest.mark.parametrize(
    "names",
    [
        ["resnet8 · seed 2", "resnet8 · seed 10", "resnet18 · seed 0"],
        ["loss.cam.weight=0.25", "loss.cam.weight=0.3", "loss.cam.weight=3", "loss.cam.weight=10"],
    ],
)
def test_numbers_in_names_sort_by_size(names: list[str]) -> None:
    """Seed 10 comes after seed 2, 0.3 after 0.25."""
    assert sorted(names, key=natural_order) == names
    assert sorted(names) != names


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_order_of_two_seeds_is_that_of_their_numbers(a: int, b: int) -> None:
    """For every pair of seeds."""
    assert (natural_order(f"cam · seed {a}") < natural_order(f"cam · seed {b}")) == (a < b)
