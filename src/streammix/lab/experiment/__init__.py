"""Experiments as data: a TOML file of what is compared, run by any number of workers, and tables with intervals."""
