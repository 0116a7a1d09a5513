"""Pictures of curves: what is in them, and how they are drawn as files and in the terminal. Torch is not needed."""
