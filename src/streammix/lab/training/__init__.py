"""Training one model: the loop, its optimizer, and what it writes to disk and screen."""
