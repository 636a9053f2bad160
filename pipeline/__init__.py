"""Ablation and benchmark studies in image classification: declare a study, run one command, get tables you can defend."""

__version__ = "0.1.0"
