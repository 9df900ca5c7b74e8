"""The one exception the lab raises for what a user can put right."""


class LabError(Exception):
    """Wrong input or a full disk, said in one line; the command line prints it and exits with 2."""
