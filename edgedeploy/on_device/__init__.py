"""What runs on the board: standard library of Python 3.7 plus the runtime found; imports nothing of ours."""
