"""`python -m streammix` is the command `streammix`: what torchrun starts, say."""

from _streammix_command import main

if __name__ == "__main__":
    main()
