"""What the learner sees of the course itself: catalogue, card of a lesson, map, progress."""
