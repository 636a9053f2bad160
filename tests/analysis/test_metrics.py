"""Words, units, directions and printed numbers of result columns."""

from __future__ import annotations

import pytest

from pipeline.analysis.metrics import baselines, describe


@pytest.mark.parametrize(
    ("column", "description"),
    [
        ("metric_test_acc_top1_last", "test accuracy (%) at the last epoch"),
        ("metric_val_acc_top1_best_val", "validation accuracy (%) at the epoch with the best validation accuracy"),
        ("metric_test_caam_energy_last", "share of the CAAM's energy on the object in the test split (%) at the last epoch"),
        ("metric_val_cam_energy_last", "share of the CAM's energy on the object in the validation split (%) at the last epoch"),
        ("metric_test_caam_pointing_last", "pointing game of the CAAM in the test split (%) at the last epoch"),
        ("metric_test_ece_last", "test expected calibration error (%) at the last epoch"),
        ("metric_test_nll_last", "test negative log-likelihood (nats) at the last epoch"),
        ("metric_test_caam_cam_distance_last", "mean distance of CAAM and CAM in the test split at the last epoch"),
        ("metric_train_loss", "training loss"),
        ("metric_train_cam_last", "training cam at the last epoch"),
        ("metric_test_of_old_times_last", "test of old times (%) at the last epoch"),
        ("time_train_s", "training time (s)"),
        ("time_step_s", "time a step (ms)"),
        ("mem_peak_bytes", "peak memory (MiB)"),
        ("something_else", "something else"),
    ],
)
def test_description_names_quantity_unit_and_protocol(column, description):
    """A column's description says what it is, in which unit, and at which epoch it was read."""
    assert describe(column).description == description


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("metric_test_acc_top1_last", 0.936, "93.60"),
        ("metric_test_acc_top1_last", -0.000004, "0.00"),
        ("metric_test_loss_last", 0.12345, "0.1235"),
        ("time_step_s", 0.0125, "12.50"),
        ("mem_peak_bytes", 2**21, "2.0"),
    ],
)
def test_number_prints_in_its_unit_without_a_negative_zero(column, value, text):
    """Stored values print in the unit of their description; rounding to zero leaves no minus sign."""
    assert describe(column).number(value) == text


def test_differences_of_percentages_are_percentage_points():
    """A difference of accuracies is in percentage points, one of times in the time's unit."""
    assert describe("metric_test_acc_top1_last").difference_unit == "percentage points"
    assert describe("time_train_s").difference_unit == "s"


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("metric_test_acc_top1_last", True),
        ("metric_test_caam_energy_last", True),
        ("metric_test_loss_last", False),
        ("metric_test_ece_last", False),
        ("metric_test_intra_inter_ratio_last", False),
        ("metric_test_inter_class_distance_last", True),
        ("metric_test_caam_cam_distance_last", False),
        ("metric_train_cam_last", False),
        ("metric_test_max_error_last", False),
        ("time_step_s", False),
        ("mem_peak_bytes", False),
    ],
)
def test_direction_of_a_metric(column, expected):
    """Accuracy and energy want more; loss, calibration error, time and memory want less."""
    assert describe(column).higher_is_better is expected


def test_baselines_are_columns_of_the_same_split_and_protocol():
    """A metric of a map names what a flat map and the centre get; boxes have no flat map, and other metrics have neither."""
    assert baselines("metric_test_cam_pointing_best_val") == {
        "flat map": "metric_test_flat_pointing_best_val",
        "centre": "metric_test_centre_pointing_best_val",
    }
    assert baselines("metric_test_caam_max_box_acc_last") == {"centre": "metric_test_centre_max_box_acc_last"}
    for column in ("metric_test_acc_top1_last", "metric_test_flat_energy_last", "time_train_s", "metric_test_unknown_last"):
        assert baselines(column) == {}
