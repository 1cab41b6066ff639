"""Measures this project beside its peers, in the same run, and writes down what came out."""
