"""Other libraries' public names on streammix's operators, one package a library."""

from . import hyper_connections

__all__ = ["hyper_connections"]
