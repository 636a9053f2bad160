"""Figures of a study (matplotlib): each file draws one kind, `write` and `write_panels` make all of them."""
