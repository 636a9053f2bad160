"""Study files: what a study declares, its factorial expansion, and the identity of each trial."""
