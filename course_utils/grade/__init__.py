"""Labs for learners, made from the solutions that hold their answers."""
