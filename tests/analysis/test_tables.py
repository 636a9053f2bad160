"""Means, SDs and paired differences against numpy, pandas and scipy; missing seeds; best cells; averages; errors."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.analysis.tables import build_table, build_tables, load_tables
from pipeline.errors import ConfigError, StoreError

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60)
FRACTION = st.floats(0, 1, allow_nan=False)


def test_mean_sd_and_interval_agree_with_pandas_and_scipy(arms):
    """Every complete cell has the mean, sample SD and confidence interval that pandas and scipy give for its trials."""
    spec, trials = arms
    result = build_table(spec, trials)
    frame = trials.to_pandas().set_index("trial_id")
    complete = [cell for cell in result.cells if cell.mean is not None]
    assert len(complete) == 4
    for cell in complete:
        planned = next(c for c in spec["cells"] if (c["row"], c["column"]) == (cell.row, cell.column))
        values = frame.loc[[trial["trial_id"] for trial in planned["trials"]], cell.metric]
        assert cell.mean == pytest.approx(values.mean(), rel=1e-14)
        assert cell.sd == pytest.approx(values.std(ddof=1), rel=1e-12)
        assert cell.ci == pytest.approx(stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values)), abs=1e-9)
        assert cell.values == tuple(values)


def test_difference_is_paired_by_seed(arms):
    """The difference to the baseline is taken seed by seed: its SD and p value are those of the paired test, not of two samples."""
    cell = build_table(*arms).cell("resnet8", "cam")
    difference = np.array([0.944, 0.9455, 0.9441]) - np.array([0.931, 0.936, 0.94])
    assert cell.delta.mean == pytest.approx(difference.mean())
    assert cell.delta.sd == pytest.approx(difference.std(ddof=1))
    assert cell.delta.n == 3
    assert cell.delta.p_t == pytest.approx(stats.ttest_rel([0.944, 0.9455, 0.9441], [0.931, 0.936, 0.94]).pvalue, rel=1e-5)


@pytest.mark.parametrize("test", ["sign_flip", "t", "wilcoxon"])
def test_p_value_is_that_of_the_table_s_test(arms, test):
    """The study's choice of test decides which of the p values counts; the others stay beside it."""
    spec, trials = arms
    delta = build_table(spec | {"statistics": {"test": test}}, trials).cell("resnet8", "cam").delta
    assert (delta.p_sign_flip, delta.p_wilcoxon) == (0.25, None)
    assert delta.p == {"sign_flip": delta.p_sign_flip, "t": delta.p_t, "wilcoxon": delta.p_wilcoxon}[test]


def _many(make_spec, make_trials, differences, **changes):
    """A table of one baseline and one arm a list of differences, over eight seeds."""
    spec = make_spec([f"r{i}" for i in range(len(differences))], ["ce", "cam"], range(8), baseline="ce", **changes)
    noise = np.random.default_rng(3).normal(0, 0.01, (len(differences), 8))
    values = {}
    for i, difference in enumerate(differences):
        values[f"r{i}", "ce"] = list(0.5 + noise[i])
        values[f"r{i}", "cam"] = list(0.5 + noise[i] + np.asarray(difference))
    return build_table(spec, make_trials(spec, values))


def test_significance_is_after_holm_over_the_whole_table(make_spec, make_trials):
    """Eight differences of one sign have p = 2/2^8; Holm multiplies the smallest by the number of differences, the largest by one."""
    up, mixed = [0.01 + 0.001 * i for i in range(8)], [0.01, -0.011, 0.012, -0.013, 0.014, -0.015, 0.016, -0.017]
    result = _many(make_spec, make_trials, [up, up, mixed])
    deltas = [result.cell(row, "cam").delta for row in result.rows]
    raw = [2 / 2**8, 2 / 2**8]
    assert [delta.p for delta in deltas[:2]] == pytest.approx(raw)
    assert [delta.p_holm for delta in deltas[:2]] == pytest.approx([3 * p for p in raw])
    assert deltas[2].p_holm == deltas[2].p > 0.5
    assert [delta.significant for delta in deltas] == [True, True, False]
    assert result.comparisons == 3
    many = _many(make_spec, make_trials, [up] * 7)  # 7 x 2/256 > 0.05: now not one of them is
    assert not any(many.cell(row, "cam").delta.significant for row in many.rows)


def test_top_are_the_best_and_what_cannot_be_told_from_it(make_spec, make_trials):
    """A rival that is worse in every one of eight seeds is told from the best; one that is worse by chance is not."""
    spec = make_spec(["a"], ["best", "near", "far"], range(8))
    best = [0.9 + 0.001 * i for i in range(8)]
    near = [value + (0.004 if i % 2 else -0.0045) for i, value in enumerate(best)]
    far = [value - 0.02 - 0.0005 * i for i, value in enumerate(best)]
    result = build_table(spec, make_trials(spec, {("a", "best"): best, ("a", "near"): near, ("a", "far"): far}))
    assert [(cell.best, cell.top) for cell in result.cells] == [(True, True), (False, True), (False, False)]
    strict = build_table(
        spec | {"statistics": {"alpha": 0.001}}, make_trials(spec, {("a", c.column): list(c.values) for c in result.cells})
    )
    assert all(cell.top for cell in strict.cells)


def test_one_seed_marks_the_best_alone(make_spec, make_trials):
    """Without a test nothing but the best is marked."""
    spec = make_spec(["a"], ["ce", "cam"], [0])
    result = build_table(spec, make_trials(spec, {("a", "ce"): [0.5], ("a", "cam"): [0.51]}))
    assert [(cell.best, cell.top) for cell in result.cells] == [(False, False), (True, True)]


def test_averages_and_ranks_are_over_complete_rows(make_spec, make_trials):
    """A row that lacks one number is in no average and no rank; fewer than two complete rows give neither."""
    spec = make_spec(["a", "b", "c"], ["ce", "cam", "l2"], [0, 1], baseline="ce")
    values = {
        (row, column): [0.1 * i + 0.01 * j, 0.1 * i + 0.02 * j]
        for i, row in enumerate("abc")
        for j, column in enumerate(("ce", "cam", "l2"))
    }
    result = build_table(spec, make_trials(spec, values, {"t110": ("failed", "out of memory")}))
    assert result.complete_rows == ("a", "c")
    assert [average.mean for average in result.averages] == pytest.approx([0.1, 0.115, 0.13])
    assert result.rankings["metric_test_acc_top1_last"].average_ranks == pytest.approx((3, 2, 1))
    two_gone = build_table(spec, make_trials(spec, values, {"t110": ("failed", "x"), "t220": ("failed", "x")}))
    assert (two_gone.complete_rows, two_gone.averages, two_gone.rankings) == (("a",), (), {})


def test_rows_on_different_data_are_ranked_but_not_averaged(make_spec, make_trials):
    """A mean over datasets says nothing; ranks within each do."""
    spec = make_spec(["birds", "cars"], ["ce", "cam"], [0, 1], row_fields=["dataset"])
    for cell in spec["cells"]:
        cell["row_levels"] = {"dataset": cell["row"]}
    values = {(row, column): [0.5, 0.6 + 0.1 * j] for row in ("birds", "cars") for j, column in enumerate(("ce", "cam"))}
    result = build_table(spec, make_trials(spec, values))
    assert result.averages == ()
    assert result.rankings["metric_test_acc_top1_last"].average_ranks == pytest.approx((2, 1))


def test_wins_and_losses_follow_the_direction_of_the_metric(make_spec, make_trials):
    """A lower loss is a win; an equal mean a tie; significant ones are counted apart."""
    spec = make_spec(["a", "b", "c"], ["ce", "cam"], range(8), baseline="ce")
    for cell in spec["cells"]:
        cell["metric"] = "metric_test_nll_last"
    base = [0.5 + 0.01 * i for i in range(8)]
    lower, higher = [value - 0.1 - 0.001 * i for i, value in enumerate(base)], [base[0] + 0.2, *base[1:]]
    values = {(row, "ce"): base for row in "abc"} | {("a", "cam"): lower, ("b", "cam"): base, ("c", "cam"): higher}
    (versus,) = build_table(spec, make_trials(spec, values)).versus
    assert (versus.wins, versus.ties, versus.losses) == (1, 1, 1)
    assert (versus.significant_wins, versus.significant_losses) == (1, 0)


def test_several_metrics_a_cell(make_spec, make_trials):
    """Each metric of a place is a cell of its own: compared, marked and averaged by itself, over the same trials."""
    spec = make_spec(["a", "b"], ["ce", "cam"], [0, 1], baseline="ce")
    spec["cells"] = [cell | {"metric": metric} for cell in spec["cells"] for metric in (cell["metric"], "metric_test_nll_last")]
    trials = make_trials(spec, {(row, column): [0.5, 0.7 if column == "cam" else 0.6] for row in "ab" for column in ("ce", "cam")})
    result = build_table(spec, trials)
    assert result.metrics == ("metric_test_acc_top1_last", "metric_test_nll_last")
    accuracy, nll = (result.cell("a", "cam", metric) for metric in result.metrics)
    assert (accuracy.trial_ids, accuracy.delta.mean) == (nll.trial_ids, pytest.approx(0.05))
    assert (accuracy.best, nll.best) == (True, False)  # the same numbers, the other way round
    assert [(average.column, average.metric) for average in result.averages] == [(c, m) for m in result.metrics for c in ("ce", "cam")]


def test_pairing_does_not_depend_on_the_order_of_records(arms):
    """Shuffled records and shuffled trials of a cell give the same table."""
    spec, trials = arms
    turned = trials.take(list(reversed(range(trials.num_rows))))
    for cell in spec["cells"]:
        cell["trials"] = cell["trials"][::-1]
    spec["cells"] = spec["cells"][::-1]
    assert build_table(spec, turned) == build_table(spec, trials)


def test_failed_seed_leaves_no_mean(arms):
    """A cell with one failed seed has no mean, SD or difference, keeps the values it has, and says why."""
    cell = build_table(*arms).cell("wrn_10_1", "cam")
    assert (cell.mean, cell.sd, cell.ci, cell.delta.mean, cell.best) == (None, None, None, None, False)
    assert cell.by_seed == {0: 0.93, 2: 0.927}
    assert [(m.seed, m.state, m.reason, m.trial_id) for m in cell.missing] == [
        (1, "failed", "loss became nan at step 12 (epoch 1)", "t111")
    ]


def test_skipped_cell_tells_the_reason_of_the_plan(arms):
    """A cell that was never planned for training carries the plan's reason for each seed."""
    cell = build_table(*arms).cell("vit_tiny", "cam")
    assert [(m.seed, m.state, m.reason) for m in cell.missing] == [
        (s, "skipped", "vit_tiny has layers after pooling: no CAM") for s in (0, 1, 2)
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_value_that_is_no_number_is_never_averaged(make_spec, make_trials, value):
    """A complete trial whose metric is NaN, infinite or absent counts as missing."""
    spec = make_spec(["a"], ["ce"], [0, 1])
    cell = build_table(spec, make_trials(spec, {("a", "ce"): [0.5, value]})).cells[0]
    assert cell.mean is None
    assert cell.n == 1
    assert cell.missing[0].state == "complete"
    assert "metric_test_acc_top1_last" in cell.missing[0].reason


def test_unknown_metric_column_names_the_nearest_one(make_spec, make_trials):
    """A metric that no record holds is reported with the nearest column, not averaged away."""
    spec = make_spec(["a"], ["ce"], [0])
    trials = make_trials(spec, {("a", "ce"): [0.5]})
    spec["cells"][0]["metric"] = "metric_test_acc_top1_lsat"
    assert "Did you mean 'metric_test_acc_top1_last'" in build_table(spec, trials).cells[0].missing[0].reason


def test_trial_without_record_and_seed_outside_the_plan_are_missing(make_spec, make_trials):
    """A planned trial without a record, and a seed of the table that the cell does not plan, both leave the cell without a mean."""
    spec = make_spec(["a", "b"], ["ce"], [0, 1])
    trials = make_trials(spec, {("a", "ce"): [0.5, 0.6], ("b", "ce"): [0.5, 0.6]}).slice(0, 3)
    del spec["cells"][0]["trials"][1]
    first, second = build_table(spec, trials).cells
    assert (first.mean, first.missing[0].reason) == (None, "not part of the plan")
    assert (second.mean, second.missing[0].state) == (None, "planned")


def test_one_seed_has_no_sd(make_spec, make_trials):
    """With one seed there is a mean and a difference, but neither SD nor interval nor p value."""
    spec = make_spec(["a"], ["ce", "cam"], [0], baseline="ce")
    cell = build_table(spec, make_trials(spec, {("a", "ce"): [0.5], ("a", "cam"): [0.75]})).cell("a", "cam")
    assert (cell.mean, cell.sd, cell.ci) == (0.75, None, None)
    assert (cell.delta.mean, cell.delta.sd, cell.delta.p, cell.delta.n) == (0.25, None, None, 1)


def test_best_of_a_row_with_ties(make_spec, make_trials):
    """All cells that share the highest mean of a row are best; a cell without rivals is not."""
    spec = make_spec(["a", "b"], ["ce", "cam", "l2"], [0, 1])
    values = {("a", c): v for c, v in {"ce": [0.5, 0.7], "cam": [0.7, 0.5], "l2": [0.1, 0.2]}.items()}
    values |= {("b", "ce"): [0.3, 0.4], ("b", "cam"): [math.nan, 0.9], ("b", "l2"): [0.9, math.nan]}
    result = build_table(spec, make_trials(spec, values))
    assert {(cell.row, cell.column) for cell in result.cells if cell.best} == {("a", "ce"), ("a", "cam")}


@pytest.mark.parametrize("seeds", [1, 2, 8])
def test_all_are_best_where_all_are_equal(make_spec, make_trials, seeds):
    """A tie of all competitors marks all of them; one competitor alone is not marked."""
    spec = make_spec(["a", "b"], ["ce", "cam", "l2"], range(seeds))
    equal = [0.5 + 0.01 * i for i in range(seeds)]
    values = {("a", "ce"): equal, ("a", "cam"): equal[::-1], ("a", "l2"): equal} | {("b", column): equal for column in ("ce", "cam", "l2")}
    gone = {f"t1{j}0": ("failed", "killed") for j in (1, 2)}
    result = build_table(spec, make_trials(spec, values, gone))
    assert {(cell.row, cell.column) for cell in result.cells if cell.best and cell.top} == {("a", column) for column in ("ce", "cam", "l2")}
    assert not any(cell.top for cell in result.cells if cell.row == "b")


def test_differences_that_count_as_0_are_0(make_spec, make_trials):
    """Rounding noise of equal values, pair by pair or in the mean, is in no number of a difference."""
    spec = make_spec(["pairs", "mean", "real", "less"], ["ce", "cam"], range(2), baseline="ce")
    noisy = [0.1 + 0.2, 0.7 + 0.1]
    assert noisy != [0.3, 0.8]
    crossed = [0.3, 0.2], [0.1, 0.4]
    assert sum(a - b for a, b in zip(*crossed, strict=True)) != 0
    values = {("pairs", "cam"): noisy, ("pairs", "ce"): [0.3, 0.8], ("mean", "cam"): crossed[0], ("mean", "ce"): crossed[1]}
    values |= {("real", "cam"): [0.5 + 1e-11, 0.5 + 2e-11], ("real", "ce"): [0.5, 0.5]}
    values |= {("less", column): values["real", other] for column, other in (("ce", "cam"), ("cam", "ce"))}
    pairs, mean, real, less = (build_table(spec, make_trials(spec, values)).cell(row, "cam").delta for row in spec["rows"])
    assert (pairs.mean, pairs.sd, pairs.se, pairs.p, pairs.effect) == (0, 0, 0, 1, None)
    assert less.mean == -real.mean
    assert [math.copysign(1, end) for end in (*pairs.ci, *less.bootstrap_ci)] == [1] * 4  # else JSON says -0.0
    assert (mean.mean, mean.effect, mean.p) == (0, 0, 1)
    assert mean.sd == pytest.approx(np.std([0.2, -0.2], ddof=1))
    assert real.mean == pytest.approx(1.5e-11, rel=1e-4)


@pytest.mark.parametrize(
    ("metric", "winner"), [("metric_test_caam_energy_last", "b"), ("metric_test_loss_last", "a"), ("time_train_s", "a")]
)
def test_best_of_a_column_follows_the_direction_of_its_metric(make_spec, make_trials, metric, winner):
    """Columns that are metrics compare down the column: energy wants the highest, loss and time the lowest."""
    spec = make_spec(["a", "b"], ["m"], [0], metrics={"m": metric})
    result = build_table(spec, make_trials(spec, {("a", "m"): [0.2], ("b", "m"): [0.8]}))
    assert [cell.row for cell in result.cells if cell.best] == [winner]


def test_arms_may_be_rows(make_spec, make_trials):
    """With arms as rows, each cell is compared with the baseline's row of the same column."""
    spec = make_spec(["ce", "cam"], ["resnet8", "vgg"], [0, 1], baseline="ce", row_fields=["arm"], column_fields=["backbone"])
    for cell in spec["cells"]:
        cell.update(arm=cell["row"], row_levels={"arm": cell["row"]}, column_levels={"backbone": cell["column"]})
    values = {("ce", "resnet8"): [0.5, 0.6], ("ce", "vgg"): [0.1, 0.2], ("cam", "resnet8"): [0.6, 0.8], ("cam", "vgg"): [0.1, 0.1]}
    result = build_table(spec, make_trials(spec, values))
    assert result.cell("ce", "vgg").delta is None
    assert result.cell("cam", "resnet8").delta.mean == pytest.approx(0.15)
    assert result.cell("cam", "vgg").delta.mean == pytest.approx(-0.05)


def test_average_over_rows_is_taken_seed_by_seed(make_spec, make_trials):
    """The closing row averages rows within each seed first; its SD and difference are over those averages."""
    spec = make_spec(["a", "b"], ["ce", "cam"], [0, 1, 2], baseline="ce")
    values = {("a", "ce"): [0.5, 0.6, 0.8], ("b", "ce"): [0.3, 0.2, 0.3], ("a", "cam"): [0.6, 0.6, 0.9], ("b", "cam"): [0.5, 0.4, 0.2]}
    averages = build_table(spec, make_trials(spec, values)).averages
    frame = pd.DataFrame(values)
    for average in averages:
        by_seed = frame.loc[:, [("a", average.column), ("b", average.column)]].mean(axis=1)
        assert average.mean == pytest.approx(by_seed.mean())
        assert average.sd == pytest.approx(by_seed.std(ddof=1))
    difference = frame.loc[:, [("a", "cam"), ("b", "cam")]].mean(axis=1) - frame.loc[:, [("a", "ce"), ("b", "ce")]].mean(axis=1)
    assert averages[0].delta is None
    assert (averages[1].delta.mean, averages[1].delta.sd) == pytest.approx((difference.mean(), difference.std(ddof=1)))


def test_incomplete_table_and_metric_columns_have_no_average(arms, sweep_table):
    """A table with one incomplete cell, or whose rows are compared down the column, has no closing row."""
    assert build_table(*arms).averages == ()
    assert build_table(*sweep_table).averages == ()


@SETTINGS
@given(data=st.data())
def test_any_subset_of_missing_seeds_empties_exactly_the_cells_that_lack_one(make_spec, make_trials, data):
    """Whatever trials fail: a cell has a mean if and only if none of its own failed, and cells keep the order of the design."""
    spec = make_spec(["a", "b"], ["ce", "cam"], [0, 1], baseline="ce")
    ids = [trial["trial_id"] for cell in spec["cells"] for trial in cell["trials"]]
    failed = data.draw(st.sets(st.sampled_from(ids)))
    values = {(row, column): data.draw(st.lists(FRACTION, min_size=2, max_size=2)) for row in "ab" for column in ("ce", "cam")}
    result = build_table(spec, make_trials(spec, values, dict.fromkeys(failed, ("failed", "out of memory"))))
    assert [(cell.row, cell.column) for cell in result.cells] == [(row, column) for row in "ab" for column in ("ce", "cam")]
    for cell, planned in zip(result.cells, spec["cells"], strict=True):
        lost = failed & {trial["trial_id"] for trial in planned["trials"]}
        assert (cell.mean is None) == bool(lost)
        assert {m.trial_id for m in cell.missing} == lost
        assert cell.n + len(cell.missing) == 2
        if cell.mean is not None:
            assert cell.mean == pytest.approx(np.mean(values[cell.row, cell.column]), abs=1e-15)


@SETTINGS
@given(values=st.lists(FRACTION, min_size=2, max_size=6), shift=st.integers(1, 5))
def test_rotating_the_seeds_changes_neither_mean_nor_sd(make_spec, make_trials, values, shift):
    """Mean and SD are symmetric in the seeds, to the last bit."""
    spec = make_spec(["a"], ["ce"], range(len(values)))
    first, second = (build_table(spec, make_trials(spec, {("a", "ce"): v})).cells[0] for v in (values, [*values[shift:], *values[:shift]]))
    assert (first.mean, first.sd, first.ci) == (second.mean, second.sd, second.ci)


def test_results_are_frozen(arms):
    """A finished table cannot be changed by a renderer."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        build_table(*arms).title = "other"  # type: ignore[misc]


def test_baseline_that_is_no_arm_is_an_error(make_spec, make_trials):
    """An unknown baseline names the table, the arms and the nearest one."""
    spec = make_spec(["a"], ["ce", "cam"], [0], baseline="cmm")
    trials = make_trials(spec, {("a", "ce"): [0.5], ("a", "cam"): [0.5]})
    with pytest.raises(ConfigError, match=r"baseline 'cmm' of table 'backbones'.*Its arms: cam, ce\. Did you mean 'cam'\?"):
        build_table(spec, trials)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"column_kind": "levels"}, "must be 'level' or 'metric', got 'levels'"),
        ({"rows": ["a", "a"]}, "rows of table 'backbones' must differ"),
        ({"columns": ["cf"]}, "names the column 'ce'; known: cf"),
        ({"selection": None}, None),
    ],
)
def test_malformed_plan_is_an_error(make_spec, make_trials, change, message):
    """A plan with an unknown kind, a repeated row, a cell outside the design or a missing field is refused with its name."""
    spec = make_spec(["a"], ["ce"], [0])
    trials = make_trials(spec, {("a", "ce"): [0.5]})
    if message is None:
        del spec["selection"]
        change, message = {}, "lacks selection"
    with pytest.raises(ConfigError, match=message):
        build_table(spec | change, trials)


def test_repeated_cell_is_an_error(make_spec, make_trials):
    """Two cells at one place of a table are refused, as only one could be printed."""
    spec = make_spec(["a"], ["ce"], [0])
    trials = make_trials(spec, {("a", "ce"): [0.5]})
    spec["cells"] *= 2
    with pytest.raises(ConfigError, match="two cells at row 'a', column 'ce'"):
        build_table(spec, trials)


def test_contradicting_records_are_an_error(make_spec, make_trials):
    """A trial with two rows, or recorded under another seed than planned, is refused."""
    spec = make_spec(["a"], ["ce"], [0])
    trials = make_trials(spec, {("a", "ce"): [0.5]})
    with pytest.raises(StoreError, match="trial t000 has two rows"):
        build_table(spec, pa.concat_tables([trials, trials]))
    with pytest.raises(StoreError, match="planned for seed 0, its record says seed 7"):
        build_table(spec, trials.set_column(trials.column_names.index("seed"), "seed", [[7]]))


def test_tables_json_that_cannot_be_read_is_an_error(tmp_path):
    """An absent, broken or foreign tables.json is named together with the command that writes it."""
    path = tmp_path / "tables.json"
    with pytest.raises(ConfigError, match=r"does not exist.*dvc repro plan"):
        load_tables(path)
    for text in ("{", "[]"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="dvc repro plan"):
            load_tables(path)


def test_results_load_from_files(tmp_path, arms):
    """Tables built from files are those built from the values in memory, with the name of the study."""
    import json

    import pyarrow.parquet as pq

    spec, trials = arms
    (tmp_path / "tables.json").write_text(json.dumps({"study": "quick", "tables": [spec]}))
    pq.write_table(trials, tmp_path / "trials.parquet")
    loaded = build_tables(load_tables(tmp_path / "tables.json"), pq.read_table(tmp_path / "trials.parquet"))
    assert loaded == build_tables({"study": "quick", "tables": [spec]}, trials)
    assert loaded[0].study == "quick"
