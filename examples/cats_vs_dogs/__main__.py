"""`python -m examples.cats_vs_dogs`."""

from parity.common.extras import needs

if __name__ == "__main__":
    with needs("cats_vs_dogs", "examples"):
        from examples.cats_vs_dogs.cli import main

        main()
