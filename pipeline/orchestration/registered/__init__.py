"""The best model of a cell, exported without pickle and registered in MLflow."""
