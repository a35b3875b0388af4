"""One module per topic, in rooms named like the notebooks' folders; each holds `EXERCISES`.

A topic is an id's part before the first dot.
"""
