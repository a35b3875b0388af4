"""What happens around a model when it runs: which tokens pass through which blocks."""
