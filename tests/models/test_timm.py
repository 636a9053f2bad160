"""timm's CNNs keep the contract of every backbone, and the packaged list of them is what the criterion of `timm_survey` says.

All are judged when the list is made (minutes); here the smallest and a middle one of every file of timm, and some that are left out.
The first name of each file's list is its smallest network.

Letters: B batch, C channels, H W rows and columns of the feature map, K classes.
"""

from __future__ import annotations

import copy
import functools

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pipeline import models
from pipeline.errors import ConfigError, IncompatibleError
from pipeline.models import timm_cnn
from pipeline.models.backbone import Backbone, num_parameters
from pipeline.models.timm_cut import cut_timm
from pipeline.models.weightless import Weightless
from tests.models.timm_survey import TRANSFORMERS, file_of, judge

K = 5
SMALLEST = [names[0] for names in timm_cnn.SUPPORTED.values()]
MIDDLE = [names[len(names) // 2] for names in timm_cnn.SUPPORTED.values() if len(names) > 2]
LEFT_OUT = [names[len(names) // 2] for names in timm_cnn.UNSUPPORTED.values()]


@functools.cache
def weightless(name: str, in_channels: int = 3) -> Backbone:
    with Weightless():
        return models.create(f"timm_{name}", num_classes=K, in_channels=in_channels).to("meta").eval()


AFFORDABLE = [name for name in SMALLEST if num_parameters(weightless(name)) < 30e6]


def test_the_list_is_that_of_the_installed_timm() -> None:
    """Every network of timm is listed once, as supported or with a reason. If not: `python -m tests.models.timm_survey`."""
    listed = [name for names in (*timm_cnn.SUPPORTED.values(), *timm_cnn.UNSUPPORTED.values()) for name in names]
    assert len(set(listed)) == len(listed)
    assert timm.__version__ == timm_cnn.MADE_WITH, "make the list again"
    assert set(listed) == set(timm.list_models())


def test_every_name_has_a_relative_that_is_tested() -> None:
    """Each name lies in a file of timm whose smallest network is looked at here, all but four of them with real weights."""
    for file, names in timm_cnn.SUPPORTED.items():
        assert {file_of(name) for name in names} == {file}
        assert names[0] in SMALLEST
    assert set(SMALLEST) - set(AFFORDABLE) == {"inception_resnet_v2", "inception_v4", "nasnetalarge", "pnasnet5large"}
    known = {name for name in models.registry.names() if name.startswith("timm_")}
    assert known == {f"timm_{name}" for names in (*timm_cnn.SUPPORTED.values(), *timm_cnn.UNSUPPORTED.values()) for name in names}
    assert not set(timm_cnn.SUPPORTED) & TRANSFORMERS


@pytest.mark.parametrize("name", MIDDLE)
def test_supported_networks_meet_the_criterion(name: str) -> None:
    """Any size, grey or colour, one feature map, plain average pooling, one linear layer, no product of activations."""
    assert judge(name).reason == ""


@pytest.mark.parametrize("name", LEFT_OUT)
def test_left_out_networks_do_not(name: str) -> None:
    """The criterion gives the reason in the list."""
    assert name in timm_cnn.UNSUPPORTED[judge(name).reason]


@pytest.mark.parametrize("name", AFFORDABLE)
def test_contract_with_real_weights(name: str) -> None:
    """The mean of the class activation map plus bias gives timm's own logits and ours, and every parameter gets a finite gradient."""
    torch.manual_seed(0)
    net = models.create(f"timm_{name}", num_classes=K, in_channels=1)
    size = (96, 128) if name == "inception_v3" else (96, 64)  # DLA and HRNet take multiples of 32 only
    image_BCHW = torch.randn(2, 1, *size)
    net.eval()
    with torch.no_grad():
        feature_map_BCHW = net.forward_features(image_BCHW)
        cam_BKHW = torch.einsum("kc,bchw->bkhw", net.classifier_weight_KC, feature_map_BCHW)
        mean_BK = cam_BKHW.mean(dim=(2, 3)) + net.classifier.bias
        logits_BK = net(image_BCHW)
    assert feature_map_BCHW.std() > 0
    scale = max(1.0, float(logits_BK.abs().max()))
    torch.testing.assert_close(mean_BK, logits_BK, rtol=1e-4, atol=1e-4 * scale)
    net.train()
    cross_entropy(net(torch.randn(2, 1, *size)), torch.arange(2)).backward()
    missing = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing


@pytest.mark.parametrize("name", SMALLEST)
def test_shapes_for_colour_images_of_two_sizes(name: str) -> None:
    """The feature map has the classifier's channels at any size."""
    net = weightless(name)
    for rows, columns in ((128, 96), (160, 160)):
        feature_map_BCHW = net.forward_features(torch.empty(2, 3, rows, columns, device="meta"))
        assert feature_map_BCHW.shape[:2] == (2, net.classifier_weight_KC.shape[1])
        assert net.forward_head(feature_map_BCHW).shape == (2, K)


@pytest.mark.parametrize("name", ["resnet10t", "dla46_c", "repvgg_a0"])
def test_the_pieces_give_the_networks_own_logits(name: str) -> None:
    """Cutting changes no number: timm's network with the same seed gives the same logits; also where the classifier is a convolution."""
    torch.manual_seed(0)
    whole = timm.create_model(name, pretrained=False, num_classes=K).eval()
    torch.manual_seed(0)
    net = models.create(f"timm_{name}", num_classes=K).eval()
    image_BCHW = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(net(image_BCHW), whole(image_BCHW), rtol=1e-4, atol=1e-5)
    assert num_parameters(net) == num_parameters(whole)


def test_a_body_with_stages_computes_the_same() -> None:
    """Stage points can be put into timm's networks that can be traced, with weights and copies kept."""
    torch.manual_seed(0)
    net = models.create("timm_resnet10t", num_classes=K).eval()
    image_BCHW = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = net(image_BCHW)
        maps = copy.deepcopy(net).forward_stages(image_BCHW)
        assert len(maps) >= 4
        torch.testing.assert_close(net.forward_head(maps[-1]), expected, rtol=0, atol=0)
    loaded = models.create("timm_resnet10t", num_classes=K).eval()
    loaded.load_state_dict(net.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(loaded(image_BCHW), expected, rtol=0, atol=0)


def test_dropout_and_seed() -> None:
    """Dropout of pooled features is ours, and the weights are a function of torch's seed."""
    assert models.create("timm_resnet10t", num_classes=K, dropout=0.25).dropout.p == 0.25
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(models.create("timm_resnet10t", num_classes=K).classifier.weight)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_a_network_that_the_installed_timm_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the version installed and the one of the list."""
    monkeypatch.setattr(timm, "is_model", lambda name: False)
    with pytest.raises(ConfigError, match=rf"'timm_resnet10t' is not in the installed timm .*made with timm {timm_cnn.MADE_WITH}"):
        models.create("timm_resnet10t", num_classes=K)


class Head(nn.Module):
    """The timm contract with a head of a test's choice."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.norm = nn.LayerNorm(6)
        self.fc: nn.Module = nn.Linear(6, K) if how != "hidden" else nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, K))
        if how == "conv":
            self.fc = nn.Conv2d(6, K, 1)
        if how == "wide conv":
            self.fc = nn.Conv2d(6, K, 3, padding=1)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        if "conv" in self.how:
            return self.fc(x.mean((2, 3), keepdim=True)).flatten(1)
        x = x.amax((2, 3)) if self.how == "max" else x.mean((2, 3))
        if self.how == "train":
            x = x * (2.0 if self.training else 1.0)
        if self.how == "norm":
            x = self.norm(x)
        x = self.fc(x)
        return x.softmax(1) if self.how == "softmax" else x


@pytest.mark.parametrize("how", ["plain", "conv"])
def test_a_plain_head_is_taken(how: str) -> None:
    """A linear layer or a 1x1 convolution after pooling is the classifier, with the same values, in the mode the network was in."""
    network = Head(how).eval()
    image_BCHW = torch.randn(3, 6, 4, 5)
    expected = network.forward_head(image_BCHW)
    before = torch.get_rng_state()
    body, classifier = cut_timm(network, "net")
    assert torch.equal(torch.get_rng_state(), before)
    assert not body.training
    torch.testing.assert_close(Backbone(body, classifier).eval()(image_BCHW), expected)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("hidden", "net has a Sequential as its classifier"),
        ("wide conv", "net has a Conv2d as its classifier"),
        ("norm", "net has LayerNorm in its head"),
        ("max", "net makes more of its feature map than"),
        ("train", "net makes more of its feature map than"),
        ("softmax", "net makes more of its feature map than"),
    ],
)
def test_other_heads_are_refused(how: str, reason: str) -> None:
    """Anything else between map and logits, in either mode, raises with what was found."""
    with pytest.raises(IncompatibleError) as caught:
        cut_timm(Head(how), "net")
    assert str(caught.value).startswith(reason)


def test_what_is_no_classifier_is_refused() -> None:
    """A module without timm's methods is no network of this kind."""
    with pytest.raises(IncompatibleError, match="net is no image classifier"):
        cut_timm(nn.Linear(2, 2), "net")
