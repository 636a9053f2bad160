"""From a study to stored trials: planning, executors, progress, tracking."""
