"""What each peer runs, in an environment of its own: scripts that import nothing of ours, and their pinned packages."""
