"""The MLflow mirror of the trial store: one flat run a trial, one run a table, made again from the store at any time.

tracker   what the driver talks to; all MLflow calls are made by one background thread
runs      the runs of one experiment, kept equal to the store
content   what a run says, and how one that was altered differs from that
points    names and steps of metrics
inputs    the datasets of a trial
tables    the runs of tables
views     saved views and descriptions in the UI
rebuild   everything once more, from the store
check     which runs are gone or altered
mirrored  what was mirrored already, so that a run with nothing to do need not ask
uri       addresses of databases, servers and runs
ui        the UI on this machine
"""
