"""Theory by experiment: what information theory and statistics say about compressed models."""
