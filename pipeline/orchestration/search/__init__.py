"""Hyperparameter search: equal budgets for every arm, every point a stored trial, the winners for the tables."""
