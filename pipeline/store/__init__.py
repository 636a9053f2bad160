"""The trial store: the truth about what has been trained."""
