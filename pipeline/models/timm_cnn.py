"""timm's CNNs that end in global average pooling and one linear layer, as `timm_<timm name>`, weights from scratch.

The names lie in `timm_names.json`, so that they are known without the seconds that importing timm takes. That file is made from the
installed timm by `python -m tests.models.timm_survey`, whose docstring has the criterion; a network that fails it is known too, with
the reason. A slash would read as well as the underscore but is taken for a folder where names become file names.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.models import register, register_unsupported
from pipeline.models.backbone import Backbone
from pipeline.models.library_net import needed_by
from pipeline.models.timm_cut import cut_timm

PREFIX = "timm_"
_LIST = json.loads((Path(__file__).parent / "timm_names.json").read_text(encoding="utf-8"))
MADE_WITH: str = _LIST["timm"]  # version of timm
SUPPORTED: dict[str, list[str]] = _LIST["supported"]  # timm's module -> timm names
UNSUPPORTED: dict[str, list[str]] = _LIST["unsupported"]  # reason -> timm names


def _register(library_name: str) -> None:
    name = f"{PREFIX}{library_name}"

    @register(name)
    def factory(*, num_classes: int, in_channels: int, dropout: float = 0.0) -> Backbone:
        """A timm CNN.

        Args:
            num_classes: K.
            in_channels: channels of the image.
            dropout: probability with which pooled features are dropped; timm's own rate (0.2 in ReXNet and legacy SENet) is not used.

        Raises:
            ConfigError: timm is not installed, or its version lacks the network.
            IncompatibleError: this version of timm gives the network another head.
        """
        with needed_by(name):
            import timm
        if not timm.is_model(library_name):
            raise ConfigError(f"backbone {name!r} is not in the installed timm {timm.__version__}; the list was made with timm {MADE_WITH}")
        network = timm.create_model(library_name, pretrained=False, num_classes=num_classes, in_chans=in_channels, drop_rate=0.0)
        body, classifier = cut_timm(network, name)
        return Backbone(body, classifier, dropout)


for _names in SUPPORTED.values():
    for _name in _names:
        _register(_name)
for _reason, _names in UNSUPPORTED.items():
    for _name in _names:
        register_unsupported(f"{PREFIX}{_name}", f"{PREFIX}{_name} {_reason}")
