"""The training loop and what it is made of: feed, objective, optimizer, evaluation."""
