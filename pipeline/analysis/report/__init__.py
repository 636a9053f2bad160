"""The report of a study: pages that need no network."""
