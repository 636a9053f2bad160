"""What the cost model says of trials, from records whose costs are known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.orchestration.cost import LATEST, CostModel, in_words
from tests.orchestration.priced import priced_record, priced_spec


def learn(*records: Any, **options: Any) -> CostModel:
    """A model of the CPU."""
    return CostModel.learn(records, **({"device": "cpu"} | options))


def test_stored_trials_of_the_same_kind_are_measured() -> None:
    """Other seeds, other epochs, other options of the methods and other learning rates are the same kind; the time goes by epochs."""
    model = learn(priced_record(priced_spec(loss=("ce", "cam"), epochs=10), 50.0))
    like = priced_spec(loss=("ce", "cam"), epochs=4, seed=3)
    like.config["loss"]["cam"]["weight"] = 3.0
    estimate = model.seconds(like)
    assert (estimate.seconds, estimate.source) == (20.0, "measured")


@pytest.mark.parametrize(
    "changes",
    [{"backbone": "resnet14"}, {"data": "other"}, {"batch_size": 64}, {"precision": "bfloat16"}, {"evaluate_test": "selected"}],
)
def test_another_setup_is_another_kind(changes: dict[str, Any]) -> None:
    """Only the mean of all is left for it."""
    model = learn(priced_record(priced_spec(), 50.0))
    assert model.seconds(priced_spec(**changes)).source == "mean"


def test_the_median_of_the_latest_counts() -> None:
    """One outlier does nothing, and what was slow long ago is forgotten, in whatever order the records come."""
    old = [priced_record(priced_spec(seed=i), 500.0, finished=i) for i in range(LATEST)]
    new = [priced_record(priced_spec(seed=100 + i), 20.0, finished=100 + i) for i in range(LATEST - 1)]
    outlier = priced_record(priced_spec(seed=999), 9000.0, finished=999)
    assert learn(*new, outlier, *old).seconds(priced_spec()).seconds == 20.0


def test_trials_on_another_device_do_not_count() -> None:
    """A model of the CPU knows nothing from a GPU."""
    model = learn(priced_record(priced_spec(), 50.0, env_device="cuda", mem_peak_bytes=7))
    assert model.seconds(priced_spec()).seconds is None
    assert model.seconds(priced_spec()).source == "unknown"
    assert model.peak_bytes(priced_spec()) is None


def test_the_same_kind_of_machine_is_preferred() -> None:
    """Trials on a device of the same name count alone where there are any, and then those with as many threads."""
    far = priced_record(priced_spec(seed=1), 10.0, env_device_name="that", finished=9)
    near = priced_record(priced_spec(seed=2), 30.0, env_threads=4)
    nearest = priced_record(priced_spec(seed=3), 40.0)
    options = {"device_name": "this", "threads": 1}
    assert learn(far, **options).seconds(priced_spec()).seconds == 10.0
    assert learn(far, near, **options).seconds(priced_spec()).seconds == 30.0
    assert learn(far, near, nearest, **options).seconds(priced_spec()).seconds == 40.0


@given(
    setups=st.lists(st.floats(0.1, 100), min_size=2, max_size=4),
    methods=st.lists(st.floats(0.5, 3), min_size=2, max_size=4),
)
def test_methods_cost_the_same_share_on_another_network(setups: list[float], methods: list[float]) -> None:
    """Where time is a product of network and methods, a cell that was never run is predicted to a percent or so."""
    names = ["ce", "cam", "focal", "center"]
    cells = {(i, j): priced_spec(f"resnet{i}", loss=(names[j],)) for i in range(len(setups)) for j in range(len(methods))}
    model = learn(*(priced_record(spec, 10 * setups[i] * methods[j]) for (i, j), spec in cells.items() if (i, j) != (0, 0)))
    estimate = model.seconds(cells[0, 0])
    assert estimate.source == "similar"
    assert estimate.seconds == pytest.approx(10 * setups[0] * methods[0], rel=0.03)


def test_methods_never_seen_cost_what_others_do_on_the_network() -> None:
    """The setup decides where nothing is known of the methods."""
    estimate = learn(priced_record(priced_spec(), 50.0)).seconds(priced_spec(regularizers=("sam",)))
    assert (estimate.source, estimate.seconds) == ("similar", pytest.approx(50.0))


def test_a_probe_is_used_until_a_trial_was_run() -> None:
    """A probe speaks for its whole setup; a stored trial for itself from then on."""
    model = learn(priced_record(priced_spec("resnet14"), 5.0))
    model.add_probe(priced_spec(), 30.0)
    assert (model.seconds(priced_spec()).source, model.seconds(priced_spec()).seconds) == ("probe", pytest.approx(30.0))
    assert model.seconds(priced_spec(regularizers=("cutout",))).source == "probe"
    model.add(priced_spec(), priced_record(priced_spec(), 40.0))
    assert (model.seconds(priced_spec()).source, model.seconds(priced_spec()).seconds) == ("measured", 40.0)


def test_a_failed_probe_leaves_its_setup_unknown() -> None:
    """With its reason, even where there is a mean of all; a trial that gets through ends that."""
    model = learn(priced_record(priced_spec("resnet14"), 5.0))
    model.refuse(priced_spec(), "out of memory")
    estimate = model.seconds(priced_spec(regularizers=("cutout",)))
    assert (estimate.seconds, estimate.source, estimate.reason) == (None, "unknown", "out of memory")
    model.add(priced_spec(), priced_record(priced_spec(), 40.0))
    assert model.seconds(priced_spec()).seconds == 40.0


def test_finished_trials_correct_the_model() -> None:
    """The median moves with what is added."""
    model = learn(priced_record(priced_spec(), 10.0))
    for seed in range(1, 4):
        model.add(priced_spec(seed=seed), priced_record(priced_spec(seed=seed), 30.0))
    assert model.seconds(priced_spec()).seconds == 30.0


def test_the_mean_of_all_goes_by_images_where_sizes_are_known() -> None:
    """Ten times the images of what is stored are expected to take ten times as long."""
    stored = priced_record(priced_spec(data="small"), 50.0, images=320)
    unseen = priced_spec("resnet14", data="large")
    assert learn(stored, images={"large": 3200}).seconds(unseen).seconds == pytest.approx(500.0)
    assert learn(stored).seconds(unseen).seconds == pytest.approx(50.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "failed", "failure": "diverged", "reason": "x"},
        {"epochs_done": None},
        {"time_total_s": 0.0},
        {"spec": "{"},
        {"spec": "[]"},
        {"spec": None},
        {"spec": '{"config": {}}'},
    ],
)
def test_records_that_tell_no_time_are_passed_over(changes: dict[str, Any]) -> None:
    """Failed trials, records of other versions, and broken ones."""
    record = priced_record(priced_spec(), 50.0, **changes)
    assert learn(record).seconds(priced_spec()).source == "unknown"


def test_the_largest_peak_of_like_trials() -> None:
    """Those with the same methods where there are any, else all of the setup; a failed one tells its memory, too."""
    plain, heavy = priced_spec(), priced_spec(regularizers=("cutmix",))
    failed = {"state": "failed", "failure": "out_of_memory", "reason": "x"}
    model = learn(
        priced_record(plain, 1.0, mem_peak_bytes=100),
        priced_record(priced_spec(seed=1), 1.0, mem_peak_bytes=120),
        priced_record(heavy, 1.0, mem_peak_bytes=300, **failed),
    )
    assert model.peak_bytes(plain) == 120
    assert model.peak_bytes(heavy) == 300
    assert model.peak_bytes(priced_spec(regularizers=("cutout",))) == 300
    assert model.peak_bytes(priced_spec("resnet14")) is None


def test_sources_in_words() -> None:
    """The most trusted first, what is not there left out."""
    assert in_words({"probe": 14, "measured": 40, "mean": 0}) == "40 trials measured, 14 from a probe"
    assert in_words({"unknown": 1}) == "1 trial of unknown cost, not counted"
