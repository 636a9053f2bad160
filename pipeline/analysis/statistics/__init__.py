"""Statistics of cells, of paired differences and of arms over many rows: pure functions of plain numbers. docs/statistics.md explains each.

batches     samples of one size together, so that thousands of cells are computed at once
intervals   what one cell says: mean, sample SD, standard error, median, t and bootstrap interval
paired      a cell against its baseline: sign-flip test, paired t, Wilcoxon, effect size
families    Holm's correction over the comparisons of a table
rankings    arms over rows: average ranks, Friedman, Nemenyi, win / tie / loss, probability of improvement
planner     how many seeds a difference needs, and which difference the seeds at hand can show
"""
