"""Wrong input through the whole command: exit status, one message that names the culprit, no traceback, the store untouched."""

# ruff: noqa: E501 - one slip a line, however long its message

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.store.trial_store import TrialStore

if TYPE_CHECKING:
    from .conftest import Project, Result

STUDY, PARAMS = "studies/tiny.yaml", "params.yaml"
DIGITS = "{source: cluttered_digits, canvas: 16, num_train: 40, num_val: 10, num_test: 10}"
ROWS = "{regularizers: [none, cutout]}"
LR = "lr: 0.05"
BASELINE = "    baseline: ce\n"


def beside(names: str, where: str = "table: CutMix_README, dataset: CIFAR-100", by: str = "regularizers") -> str:
    """The baseline's line with a column of published numbers below it, from line 21 on."""
    lines = ("reference:", "  P:", f"    where: {{{where}}}", f"    by: {by}", f"    names: {{{names}}}")
    return BASELINE + "".join(f"    {line}\n" for line in lines)


def _refused(project: Project, result: Result, *messages: str, before: dict[str, bytes]) -> None:
    """Exit status 2, one error that matches all messages, no traceback, and a store as it was."""
    assert result.code == 2, result.err + result.out
    assert "Traceback" not in result.err + result.out
    errors = [line for line in result.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.err
    for message in messages:
        assert re.search(message, errors[0]), f"{message!r} is not in {errors[0]!r}"
    assert project.stored() == before


# file, what stands there, what stands there instead, what the message must say
SLIPS: dict[str, tuple[str, str, str, str]] = {
    "unknown key of the study": (STUDY, "seeds: 1", "sedes: 1", r"tiny\.yaml:2: sedes: unknown key 'sedes'\. Did you mean 'seeds'\?"),
    "unknown key of the defaults": (STUDY, "epochs: 1", "epoch: 1", r"tiny\.yaml:10: defaults\.epoch: unknown key 'epoch'\. Did you mean 'epochs'\?"),
    "unknown key of the optimizer": (STUDY, LR, "lrr: 0.05", r"tiny\.yaml:12: defaults\.optimizer\.lrr: unknown key 'lrr'\. Did you mean 'lr'\?"),
    "unknown key of a table": (STUDY, "    baseline:", "    base:", r"tiny\.yaml:20: tables\.main\.base: unknown key 'base'\. Did you mean 'baseline'\?"),
    "unknown key of an arm": (STUDY, "ce: {}\n  cam:", "ce: {epoch: 2}\n  cam:", r"tiny\.yaml:14: arms\.ce\.epoch: unknown key 'epoch'\. Did you mean"),
    "unknown key of params": (PARAMS, "resources:", "resource:", r"params\.yaml:2: resource: unknown key 'resource'\. Did you mean 'resources'\?"),
    "unknown key of the tracking": (PARAMS, "uri: null", "url: null", r"params\.yaml:3: tracking\.url: unknown key 'url'\. Did you mean 'uri'\?"),
    "list for a mapping": (STUDY, "optimizer: {name: sgd, lr: 0.05}", "optimizer: [sgd]", r"tiny\.yaml:12: defaults\.optimizer: expected a mapping"),
    "mapping for a list": (STUDY, "[none, cutout]", "none", r"tables\.main\.rows\.regularizers: levels are a list, or a mapping.*got 'none'"),
    "text for a number": (STUDY, "epochs: 1", "epochs: '1'", r"tiny\.yaml:10: defaults\.epochs: .*valid integer, got '1'"),
    "a boolean for a number": (STUDY, LR, "lr: yes", r"defaults\.optimizer\.lr: .*valid number, got True"),
    "unknown backbone": (STUDY, "backbone: resnet8", "backbone: resnet9", r"Unknown backbone 'resnet9' in .*tiny\.yaml:7: defaults\.backbone\. Did you mean 'resnet"),
    "option of no backbone": (STUDY, "backbone: resnet8", "backbone: {name: resnet8, dropuot: 0.1}", r"tiny\.yaml:7: .*backbone 'resnet8' has no option 'dropuot'\. Did you mean 'dropout'\?"),
    "unknown loss": (STUDY, "loss: {cam:", "loss: {cma:", r"Unknown loss 'cma' in .*tiny\.yaml:15: arms\.cam\.loss\.cma.*Did you mean 'cam'\?"),
    "option of no loss": (STUDY, "weight: 1.0", "wieght: 1.0", r"tiny\.yaml:15: arms\.cam\.loss\.cam\.wieght: loss 'cam' has no option 'wieght'\. Did you mean 'weight'\?"),
    "value of no option": (STUDY, "weight: 1.0", "distance: l3", r"tiny\.yaml:15: arms\.cam\.loss\.cam\.distance: got 'l3'.*Allowed: 'l1'"),
    "unknown regularizer": (STUDY, "[none, cutout]", "[none, cutuot]", r"Unknown regularizer 'cutuot' in .*tiny\.yaml:18: .*Did you mean 'cutout'\?"),
    "regularizer out of range": (STUDY, "[none, cutout]", "[{cutout: {size: 0}}]", r"tiny\.yaml:18: .*regularizer 'cutout': size must be >= 1 pixel, got 0"),
    "unknown dataset": (STUDY, "dataset: digits", "dataset: digit", r"tiny\.yaml:6: defaults\.dataset: unknown dataset 'digit'\. Did you mean 'digits'\?"),
    "unknown source": (STUDY, "source: cluttered_digits", "source: cluttered_digit", r"Unknown dataset 'cluttered_digit' in .*tiny\.yaml:4: datasets\.digits\.source.*Did you mean 'cluttered_digits'\?"),
    "dataset without a source": (STUDY, "source: cluttered_digits, ", "", r"tiny\.yaml:4: datasets\.digits: 'source' is missing"),
    "option of no dataset": (STUDY, "canvas: 16", "canvass: 16", r"tiny\.yaml:4: datasets\.digits\.canvass: .*has no option 'canvass'\. Did you mean 'canvas'\?"),
    "option that a dataset needs": (STUDY, DIGITS, "{source: parquet}", r"'train' is missing; it has no default"),
    "unknown arm": (STUDY, "[ce, cam]", "[ce, cma]", r"Unknown arm 'cma' in .*tiny\.yaml:19: tables\.main\.columns\.arm\[1\]\. Did you mean 'cam'\?"),
    "unknown baseline": (STUDY, "baseline: ce", "baseline: ec", r"Unknown baseline 'ec' in .*tiny\.yaml:20: .*Known: cam, ce"),
    "unknown metric": (STUDY, "{arm: [ce, cam]}\n    baseline: ce", "{metric: [acc_top]}", r"Unknown metric 'acc_top' in .*tiny\.yaml:19: .*Did you mean 'acc_top[15]'\?"),
    "unknown metric of the protocol": (STUDY, "seeds: 1", "protocol: {metric: accuracy}", r"Unknown metric 'accuracy' in .*tiny\.yaml:2: protocol\.metric\."),
    "unknown selection": (STUDY, "seeds: 1", "protocol: {selection: best-val}", r"tiny\.yaml:2: protocol\.selection: got 'best-val'\. Did you mean 'best_val'\?"),
    "no levels": (STUDY, "[none, cutout]", "[]", r"tiny\.yaml:18: tables\.main\.rows\.regularizers: the list of levels is empty"),
    "no rows": (STUDY, ROWS, "{}", r"tiny\.yaml:18: tables\.main\.rows: needs at least one field"),
    "published name that is none": (STUDY, BASELINE, beside("cutout: Cutuot"), r"tiny\.yaml:25: tables\.main\.reference\.P\.names\.cutout: Unknown method 'Cutuot' in published numbers, .*Did you mean 'Cutout'\?"),
    "published name of no level": (STUDY, BASELINE, beside("cutuot: Cutout"), r"Unknown level 'cutuot' in .*tiny\.yaml:25: tables\.main\.reference\.P\.names\.cutuot\. Did you mean 'cutout'\?"),
    "published dataset that is none": (STUDY, BASELINE, beside("cutout: Cutout", "dataset: CIFAR-10O"), r"tiny\.yaml:23: tables\.main\.reference\.P\.where\.dataset: Unknown dataset 'CIFAR-10O' in .*Did you mean 'CIFAR-10'\?"),
    "two published numbers a row": (STUDY, BASELINE, beside("cutout: Cutout", "dataset: CIFAR-100"), r"tiny\.yaml:23: .*where: \d published numbers fit row 'cutout'\. They differ in table \(.*Add to `where`"),
    "no published number": (STUDY, BASELINE, beside(""), r"tiny\.yaml:24: .*by: no row has a published number\. Looked for method 'none', 'cutout'; published .*e\.g\. names: \{cutout: Cutout\}"),
    "published numbers of no metric": (STUDY, BASELINE, beside("cutout: CutMix", "table: CutMix_README_transfer, task: wsol, metric: loc_acc, dataset: CUB-200-2011"), r"tiny\.yaml:23: .*where: the published numbers are loc_acc on the test split, the table shows test accuracy"),
    "published numbers by nothing": (STUDY, BASELINE, beside("cutout: Cutout", by="[]"), r"tiny\.yaml:24: .*by: by is a field of the rows, .*got \[\]"),
    "a level twice": (STUDY, "[none, cutout]", "[none, none]", r"tiny\.yaml:18: .*the level 'none' stands twice"),
    "no epochs": (STUDY, "epochs: 1", "epochs: 0", r"tiny\.yaml:10: defaults\.epochs: epochs must be >= 1, got 0"),
    "negative epochs": (STUDY, ROWS, "{epochs: [1, -3]}", r"tiny\.yaml:18: tables\.main\.rows\.epochs\[1\]: epochs must be >= 1, got -3"),
    "no learning rate": (STUDY, LR, "lr: 0", r"tiny\.yaml:12: defaults\.optimizer\.lr: lr must be > 0, got 0"),
    "one image a batch": (STUDY, "batch_size: 20", "batch_size: 1", r"tiny\.yaml:11: defaults\.batch_size: batch_size must be >= 2 .*got 1"),
    "not a number": (STUDY, LR, "lr: .nan", r"defaults\.optimizer\.lr: .*finite number, got nan"),
    "infinite": (STUDY, LR, "lr: .inf", r"defaults\.optimizer\.lr: .*finite number, got inf"),
    "weight that is not a number": (STUDY, "weight: 1.0", "weight: .nan", r"tiny\.yaml:15: arms\.cam\.loss\.cam\.weight: weight must be a number >= 0, got nan"),
    "a term that never starts": (STUDY, "weight: 1.0", "start_epoch: 1", r"tiny\.yaml:15: arms\.cam\.loss\.cam\.start_epoch: 'cam' starts at epoch 1 .*the trial has 1 epoch\b"),
    "no active term": (STUDY, "loss: {ce: {}}", "loss: {ce: {weight: 0}}", r"no loss term is active at epoch 0, so there is nothing to train"),
    "seeds as a factor": (STUDY, ROWS, "{seed: [0, 1]}", r"tiny\.yaml:18: .*seeds are repetitions, not a factor; set `seeds:`"),
    "no seeds": (STUDY, "seeds: 1", "seeds: 0", r"tiny\.yaml:2: seeds: .*repetitions >= 1.*got 0"),
    "no seeds in params": (PARAMS, "study: tiny\n", "study: tiny\nseeds: 0\n", r"params\.yaml:2: seeds: .*repetitions >= 1.*got 0"),
    "a key twice": (STUDY, "backbone: resnet8", "epochs: 3", r"tiny\.yaml:10: the key 'epochs' stands twice, first in line 7"),
    "no YAML": (STUDY, ROWS, "{regularizers: [none, cutout}", r"tiny\.yaml:18:\d+: not valid YAML"),
    "a template": (STUDY, "study: tiny", "study: {{name}}", r"tiny\.yaml:1: a key must be a word or a number"),
    "params without keys": (PARAMS, "study: tiny\n", "- tiny\n", r"params\.yaml:2:\d+: not valid YAML"),
    "another name than the file's": (STUDY, "study: tiny", "study: small", r"tiny\.yaml:1: study: the study calls itself 'small' but its file is tiny\.yaml"),
    "unknown study in params": (PARAMS, "study: tiny", "study: tinny", r"Unknown study 'tinny' in studies\. Did you mean 'tiny'\?"),
    "unknown executor": (PARAMS, "executor: serial", "executor: seral", r"params\.yaml:2: resources\.executor: got 'seral'\. Did you mean 'serial'\? Allowed: 'ray' or 'serial'"),
    "unknown device": (PARAMS, "device: cpu", "device: gpu", r"params\.yaml:2: resources\.device: got 'gpu'.*Allowed: 'auto', 'cpu' or 'cuda'"),
    "no store": (PARAMS, "url: store", "url: ''", r"params\.yaml:4: store\.url: .*at least 1 character"),
    "store of no kind": (PARAMS, "url: store", "url: nosuch://bucket", r"The store URL 'nosuch://bucket' is not usable: .*Set `store\.url`"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_a_file(project: Project, slip: str) -> None:
    """One slip in the study file or in params.yaml: `ablate plan` names it with its line and says what would be right."""
    file, old, new, message = SLIPS[slip]
    project.edit(file, old, new)
    before = project.stored()
    _refused(project, project.ablate("plan"), message, before=before)


@pytest.mark.parametrize(
    ("text", "message"),
    [("- study\n- seeds\n", r"params\.yaml: a params file must be a mapping of keys to values, got list"), ("tiny\n", "got str")],
)
def test_params_that_are_no_mapping(project: Project, text: str, message: str) -> None:
    """params.yaml must hold keys."""
    (project.root / PARAMS).write_text(text)
    _refused(project, project.ablate("run"), message, before=project.stored())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--study", "tinny"], r"Unknown study 'tinny' in studies\. Did you mean 'tiny'\? Known: tiny\."),
        (["plan", "--study", "studies/tinny.yaml"], r"No study file at studies/tinny\.yaml\. Did you mean 'studies/tiny\.yaml'\?"),
        (["run", "--trial", "fedcba"], r"Unknown trial 'fedcba' in the plan\..*`ablate trials` lists them all"),
        (["why", "fedcba"], r"Unknown trial 'fedcba' in the plan"),
        (["table", "mian"], r"Unknown table 'mian' in study tiny\. Did you mean 'main'\? Known: main"),
        (["verify"], r"nothing has been published\. Run `dvc repro`"),
        (["ui"], r"tracking\.uri is null in params\.yaml: there is nothing to show"),
    ],
)
def test_arguments(project: Project, arguments: list[str], message: str) -> None:
    """An argument that names nothing gets the nearest name or the next step."""
    _refused(project, project.ablate(*arguments), message, before=project.stored())


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [(["rnu"], "rnu"), (["run", "--trail", "x"], "--trail"), (["why"], "trial_id"), (["ui", "--port", "x"], "--port")],
)
def test_usage(project: Project, arguments: list[str], culprit: str) -> None:
    """A wrong command line is answered with its culprit and exit status 2."""
    before = project.stored()
    result = project.ablate(*arguments)
    assert result.code == 2
    assert culprit in result.err.lower()
    assert "Traceback" not in result.err
    assert project.stored() == before


def _png(side: int = 8, value: int = 100) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def _parquet(root: Path, images: list[bytes] | None = None, labels: list[Any] | None = None) -> Path:
    images = images or [_png()] * 40
    labels = labels or [row % 2 for row in range(len(images))]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"img": pa.array([{"bytes": image, "path": None} for image in images], kind), "label": labels})
    info = '{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'
    path = root / "train.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": info}), path)
    return path


def _truncated(root: Path) -> None:
    path = _parquet(root)
    path.write_bytes(path.read_bytes()[:-40])


def _folder(root: Path, *files: str, content: bytes = b"") -> None:
    (root / "images").mkdir()
    for file in files:
        (root / "images" / file).parent.mkdir(exist_ok=True)
        (root / "images" / file).write_bytes(content or _png())


PARQUET, FOLDER = "{source: parquet, train: train.parquet}", "{source: image_folder, root: images}"
BAD_DATA: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "missing file": ("{source: parquet, train: trian.parquet}", _parquet, r"'digits'.*'trian\.parquet' does not exist\. Did you mean 'train\.parquet'\?"),
    "truncated table": (PARQUET, _truncated, r"'digits'.*train\.parquet cannot be read as Parquet; it may be truncated"),
    "table that is none": (PARQUET, lambda root: (root / "train.parquet").write_bytes(b"no"), r"train\.parquet cannot be read as Parquet"),
    "image that does not decode": (PARQUET, lambda root: _parquet(root, [_png()] * 23 + [b"no image"] + [_png()] * 16), r"train\.parquet, row 23: the image does not decode"),
    "truncated image": (PARQUET, lambda root: _parquet(root, [_png()] * 23 + [_png()[:-30]] + [_png()] * 16), r"train\.parquet, row 23: the image does not decode"),
    "label out of range": (PARQUET, lambda root: _parquet(root, labels=[0, 1] * 19 + [0, 7]), r"train\.parquet, row 39: label is 7, allowed is 0\.\.1"),
    "label missing": (PARQUET, lambda root: _parquet(root, labels=[0, 1] * 19 + [0, None]), r"train\.parquet, row 39: label is null"),
    "images of two sizes": (PARQUET, lambda root: _parquet(root, [_png()] * 30 + [_png(9)] * 10), r"train\.parquet, row 3\d: the image has 9x9 pixels, the first one 8x8.*size"),
    "no such column": ("{source: parquet, train: train.parquet, label_column: labl}", _parquet, r"has no column 'labl'\. Did you mean 'label'\?"),
    "missing folder": ("{source: image_folder, root: imagse}", _folder, r"'imagse' is no folder\. Did you mean 'images'\?"),
    "empty folder": (FOLDER, _folder, r"images has no folders\. Put the images into one folder a class"),
    "folder without images": (FOLDER, lambda root: _folder(root, "cat/notes.txt"), r"images has no image files in its class folders\. Known endings: "),
    "file that is no image": (FOLDER, lambda root: _folder(root, *(f"{name}/{n}.png" for name in ("a", "b") for n in range(9)), content=b"no"), r"images/./\d\.png: the image does not decode"),
    "option out of range": (DIGITS.replace("num_train: 40", "num_train: 4"), lambda root: None, r"'digits'.*num_train must be at least 10 .*got 4"),
}  # fmt: skip


@pytest.mark.parametrize("command", ["prepare", "run"])
@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(project: Project, case: str, command: str) -> None:
    """Data that cannot be used are named by file and row before anything is trained, and no half-made dataset is left."""
    declaration, make, message = BAD_DATA[case]
    project.edit(STUDY, DIGITS, declaration)
    make(project.root)
    before, prepared = project.stored(), sorted((project.root / "data" / "prepared").iterdir())
    _refused(project, project.ablate(command), message, before=before)
    assert sorted((project.root / "data" / "prepared").iterdir()) == prepared


def test_a_damaged_prepared_dataset(project: Project) -> None:
    """A prepared dataset whose manifest is damaged is named by `plan`, and made again by `run`."""
    manifest = next((project.root / "data" / "prepared").glob("*/manifest.json"))
    manifest.write_text("{}")
    _refused(
        project, project.ablate("plan"), r"manifest\.json lacks fields of a manifest\. Prepare the dataset again", before=project.stored()
    )
    assert project.ablate("prepare").code == 0
    assert project.ablate("plan").code == 0


def test_a_bad_study_is_refused_before_data_are_prepared(project: Project) -> None:
    """`ablate run` looks at the whole study first: a slip must not cost a download."""
    project.edit(STUDY, "canvas: 16", "canvas: 17")
    project.edit(STUDY, "backbone: resnet8", "backbone: resnet9")
    before, prepared = project.stored(), sorted((project.root / "data" / "prepared").iterdir())
    _refused(project, project.ablate("run"), "Unknown backbone 'resnet9'", before=before)
    assert sorted((project.root / "data" / "prepared").iterdir()) == prepared


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlit:///mlflow.db", r"tracking\.uri 'sqlit:///mlflow\.db' has the scheme 'sqlit'; allowed: sqlite://.*Did you mean 'sqlite'\?"),
        ("mlruns", r"tracking\.uri 'mlruns' has no scheme; allowed: sqlite://"),
        ("sqlite://mlflow.db", r"names no database file; allowed: sqlite:/// \(three slashes\)"),
        ("sqlit://user:secret@host/", r"tracking\.uri 'sqlit://\*\*\*@host/' has the scheme 'sqlit'"),
    ],
)
def test_tracking_uri(project: Project, uri: str, message: str) -> None:
    """A tracking URI that MLflow could never use is refused before training; a password in it is not printed."""
    project.edit(PARAMS, "uri: null", f"uri: '{uri}'")
    before = project.stored()
    result = project.ablate("run")
    assert "secret" not in result.err + result.out
    _refused(project, result, message, before=before)


@pytest.mark.parametrize("command", ["run", "plan", "status"])
def test_the_store_is_a_file(project: Project, command: str) -> None:
    """A file where the store should be is named by every command that needs the store."""
    (project.root / "elsewhere").write_text("I am a file")
    project.edit(PARAMS, "url: store", "url: elsewhere")
    _refused(project, project.ablate(command), r"The store .*elsewhere cannot be (listed|written): .*`store\.url`", before=project.stored())
    assert (project.root / "elsewhere").read_text() == "I am a file"


def test_the_store_cannot_be_written(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that can be read but not written stops a run before the first trial; reading goes on."""

    def read_only(path: Path, *arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    before = project.stored()
    with monkeypatch.context() as patch:
        patch.setattr(TrialStore, "_remove", read_only)
        patch.setattr(Path, "replace", read_only)
        result = project.ablate("run")
    _refused(project, result, r"The store .*store cannot be written: .*Permission denied.*Nothing stored before is lost", before=before)
    assert project.ablate("status").code == 0


def test_a_damaged_segment(project: Project) -> None:
    """A store segment that was cut short is named, with what to do."""
    segment = next((project.root / "store" / "segments").glob("*.records.parquet"))
    segment.write_bytes(segment.read_bytes()[:100])
    for command in ("plan", "run", "trials"):
        _refused(project, project.ablate(command), rf"{segment.name} cannot be read: .*move .* away", before=project.stored())


@pytest.mark.parametrize("address", ["not an address", "127.0.0.1:1", "nohost.invalid:6379"])
def test_no_cluster_at_the_address(project: Project, address: str) -> None:
    """A wrong RAY_ADDRESS is answered within a minute, with the address and the way out."""
    project.edit(PARAMS, "executor: serial", "executor: ray")
    before, started = project.stored(), time.monotonic()
    environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run"], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert time.monotonic() - started < 60
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"No Ray cluster at RAY_ADDRESS={address!r}" in done.stderr
    assert "unset RAY_ADDRESS to run on this machine" in done.stderr
    assert project.stored() == before


def test_two_regularizers_that_mix_labels_are_a_skipped_cell(project: Project) -> None:
    """An impossible combination is a result with its reason, not an error; the other cells are planned."""
    project.edit(STUDY, "[none, cutout]", "[none, [mixup, cutmix]]")
    result = project.ablate("plan")
    assert result.code == 0
    assert "skipped (" in result.out
    assert "mixup and cutmix both mix labels" in result.out
    states = {row["state"] for row in _trials(project)}
    assert states == {"planned", "skipped"}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("backbone: resnet8", "backbone: resnet18", "cam compares maps .* the feature map of resnet18 at 16x16 pixels is 1x1"),
        ("backbone: resnet8", "backbone: inception_v3", r"inception_v3 does not take 16x16 images: \S"),
        ("cam: {weight: 1.0}", "cam: {target: top_k, top_k: 50}", "loss.cam.top_k is 50, but there are only 10 classes"),
        ("{ce: {}}", "{focal: {alpha: [1, 2]}}", "loss.focal.alpha must be one weight a class: got 2 for 10 classes"),
        ("[none, cutout]", "[none, {drop_block: {stages: [7]}}]", "resnet8 has 3 stages, so there is no stage 7"),
    ],
)
def test_what_cannot_work_is_a_skipped_cell(project: Project, old: str, new: str, reason: str) -> None:
    """It is said at planning, with the reason, instead of by a failed trial; nothing is trained for it."""
    project.edit(STUDY, old, new)
    result = project.ablate("plan")
    assert result.code == 0
    assert re.search(reason, result.out)
    skipped = [row for row in _trials(project) if row["state"] == "skipped"]
    assert skipped
    assert all(re.search(reason, row["reason"]) for row in skipped)


def test_a_batch_larger_than_the_training_split(project: Project) -> None:
    """Both numbers are named, and the way out; a batch of all images is fine."""
    project.edit(STUDY, "batch_size: 20", "batch_size: 40")
    assert project.ablate("plan").code == 0
    project.edit(STUDY, "batch_size: 40", "batch_size: 41")
    result = project.ablate("plan")
    assert result.code == 2
    assert "batch_size is 41, but dataset 'digits' has only 40 training images. Set batch_size to 40 or less." in result.err
    assert "Traceback" not in result.err


def test_planning_again_builds_no_network(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first plan remembers what fits; only other code of a trial is a new question. The plan itself is the same."""
    from pipeline import models
    from pipeline.orchestration import planning

    built: list[str] = []
    create = models.create
    monkeypatch.setattr(models, "create", lambda name, **options: built.append(name) or create(name, **options))
    first = project.ablate("plan", "--json", "--no-probe")
    assert set(built) == {"resnet8"}
    built.clear()
    assert project.ablate("plan", "--json", "--no-probe") == first
    assert built == []
    monkeypatch.setattr(planning, "code_key_of", lambda config: "0123456789abcdef")
    project.ablate("plan", "--json", "--no-probe")
    assert set(built) == {"resnet8"}


def _trials(project: Project) -> list[dict[str, Any]]:
    result = project.ablate("trials", "--json")
    assert result.code == 0
    return json.loads(result.out)


def test_a_trial_that_diverges(project: Project) -> None:
    """Divergence is named with its step and ends the command with 1; the other trials complete, and it is never tried again."""
    project.edit(STUDY, ROWS, "{optimizer.lr: [0.05, 1e30]}")
    project.edit(STUDY, "epochs: 1", "epochs: 2")
    project.edit(STUDY, "[ce, cam]", "[ce]")
    result = project.ablate("run")
    assert result.code == 1, result.err
    assert re.search(r"diverged: .*loss became (nan|inf) at step \d+ \(epoch [01]\)", result.out)
    assert sorted(row["state"] for row in _trials(project)) == ["complete", "failed"]
    again = project.ablate("run")
    assert again.code == 1
    assert "(0 trained now)" in again.out
    assert "Traceback" not in result.out + result.err + again.out + again.err


RAISING = """
from pipeline.losses import register

@register("raising")
def raising():
    def loss(inputs):
        raise ZeroDivisionError("a bug of the method")
    return loss
"""


def test_a_method_that_raises(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in a method fails its trials only: exit status 1, traceback in the record, and a command to run it again."""
    from pipeline import losses

    losses.names()  # so that the registry is full before it is put aside
    monkeypatch.setattr(losses.registry, "_entries", dict(losses.registry._entries))
    (project.root / "raising_method.py").write_text(RAISING)
    monkeypatch.syspath_prepend(project.root)
    import raising_method

    assert "raising" in losses.names()
    monkeypatch.delitem(sys.modules, raising_method.__name__)
    project.edit(STUDY, "loss: {cam: {weight: 1.0}}", "loss: {raising: {}}")
    project.edit(STUDY, "[none, cutout]", "[none]")
    result = project.ablate("run")
    assert result.code == 1, result.err
    failed = [row for row in _trials(project) if row["state"] == "failed"]
    assert [row["reason"] for row in failed] == ["ZeroDivisionError: a bug of the method"]
    assert sorted(row["state"] for row in _trials(project)) == ["complete", "failed"]
    trial_id = failed[0]["trial_id"]
    assert f"error: {failed[0]['name']} [{trial_id}]: ZeroDivisionError: a bug of the method" in result.out
    record = TrialStore(project.root / "store").records()[trial_id]
    assert "raising_method.py" in record["traceback"]
    assert 'raise ZeroDivisionError("a bug of the method")' in record["traceback"]
    status = project.ablate("status")
    assert status.code == 0
    rerun = f"ablate run --study tiny --trial {trial_id}"
    assert rerun in status.out
    again = project.ablate(*rerun.split()[1:])
    assert again.code == 1
    assert TrialStore(project.root / "store").records()[trial_id]["attempt"] == 2
    assert "Traceback" not in result.err + result.out + again.err + again.out


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_that_ships_is_sound(path: Path) -> None:
    """Each study file of the repository expands into tables with the registered methods."""
    from pipeline.orchestration.planning import vocabulary
    from pipeline.study.config import load_study
    from pipeline.study.design import expand

    tables = expand(load_study(path.stem, path.parent), vocabulary())
    assert tables
    assert all(table.cells for table in tables)
