"""One module per topic; each holds `EXERCISES`, a list of `Exercise`. A topic is an id's part before the first dot."""
