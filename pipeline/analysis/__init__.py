"""From records to what is read: tables, figures, summary metrics and the report.

Everything here is a pure function of three plain inputs: `tables.json` (what was planned), `results/trials.parquet`
(one row a trial) and `results/history.parquet` (one row a trial and epoch). Nothing is read from MLflow or the store.

    metrics          what a column measures: words, unit, direction, selection protocol
    tables           plan x records -> cells with n, mean, sample SD, paired difference
    wording          captions, footnotes and the sentences of the summary
    layout           the format-neutral grid that all display formats print
    render_*         one file a format; `write` writes all of them
    aggregate        metrics.json
    curves           accuracy over epochs, aggregated over seeds
    figures          matplotlib figures of tables and curves
    report           one self-contained HTML page
"""
