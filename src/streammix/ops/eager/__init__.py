"""The plain backend: every operator as the formulas of its paper, in vectorised PyTorch, on any device."""
