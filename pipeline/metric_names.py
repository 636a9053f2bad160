"""The metrics of a trial: names, words, units, directions, baselines and when each is measured. One table for planning and printing.

How a metric is computed stands in `pipeline.training`, which never reads this file: new words change no trial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class MetricName:
    """One metric of a split; a column of the results is `metric_<split>_<name>_<selection>`.

    Attributes:
        name: as a study file calls it.
        words: what it measures, with `{split}` in place of 'training', 'validation' or 'test'.
        unit: unit as printed; empty for a plain number.
        scale: printed value = stored value x scale.
        decimals: digits after the point.
        higher_is_better: direction of a comparison.
        when: 'epoch': on both splits after each epoch; 'end': on the test split once, for the weights of each selection rule.
        flat: metric that a map without structure gets on the same images, or None.
        centre: metric that a map which always points at the centre of the image gets, or None.
    """

    name: str
    words: str
    unit: str = "%"
    scale: float = 100.0
    decimals: int = 2
    higher_is_better: bool = True
    when: Literal["epoch", "end"] = "epoch"
    flat: str | None = None
    centre: str | None = None


def _plain(name: str, words: str, *, higher_is_better: bool = False, unit: str = "", when: Literal["epoch", "end"] = "end") -> MetricName:
    return MetricName(name, words, unit, 1.0, 4, higher_is_better, when)


def _of_maps(name: str, words: str, *, flat: bool, when: Literal["epoch", "end"] = "end") -> list[MetricName]:
    """The metric for CAAM and CAM, and for the maps that they are compared with; `words` holds `{map}`."""
    flat_name, centre_name = (f"flat_{name}" if flat else None), f"centre_{name}"

    def of(short: str, noun: str, **fields: Any) -> MetricName:
        return MetricName(f"{short}_{name}", words.replace("{map}", noun), **fields)

    maps = [of(short, f"the {short.upper()}", when=when, flat=flat_name, centre=centre_name) for short in ("caam", "cam")]
    return maps + [of("flat", "a flat map", when=when)] * flat + [of("centre", "a centred Gaussian", when="end")]


_ALL = (
    MetricName("acc_top1", "{split} accuracy"),
    MetricName("acc_top5", "{split} top-5 accuracy"),
    _plain("loss", "{split} loss", when="epoch"),
    *_of_maps("energy", "share of {map}'s energy on the object in the {split} split", flat=True, when="epoch"),
    *_of_maps("pointing", "pointing game of {map} in the {split} split", flat=True),
    *_of_maps("max_box_acc", "MaxBoxAcc of {map} in the {split} split", flat=False),
    *_of_maps("max_box_acc_v2", "MaxBoxAccV2 of {map} in the {split} split", flat=False),
    *_of_maps("pxap", "pixel average precision of {map} in the {split} split", flat=True),
    _plain("caam_cam_distance", "mean distance of CAAM and CAM in the {split} split"),
    _plain("intra_class_distance", "mean distance of features to their class mean in the {split} split"),
    _plain("inter_class_distance", "mean distance between class means in the {split} split", higher_is_better=True),
    _plain("intra_inter_ratio", "distance within classes over distance between them in the {split} split"),
    MetricName("ece", "{split} expected calibration error", higher_is_better=False, when="end"),
    _plain("nll", "{split} negative log-likelihood", unit="nats"),
)

METRICS: dict[str, MetricName] = {metric.name: metric for metric in _ALL}
