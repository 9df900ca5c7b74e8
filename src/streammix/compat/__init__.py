"""Other libraries' public names on streammix's operators, one package a library."""
