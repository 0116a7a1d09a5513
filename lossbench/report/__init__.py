"""What comes of runs: pictures of curves, and comparisons with their leaderboard. Torch is not needed."""
