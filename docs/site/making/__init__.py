"""How the site is made: `stage` writes what Sphinx reads, from the committed notebooks and
course.yaml; nothing is run.
"""
