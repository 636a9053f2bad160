"""A finished table in each format; `write` makes all of them."""
