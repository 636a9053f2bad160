"""Kinds of trials: what is built, trained and measured."""
