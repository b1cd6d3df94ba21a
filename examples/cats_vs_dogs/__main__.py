"""`python -m examples.cats_vs_dogs`."""

from examples.cats_vs_dogs.cli import main

if __name__ == "__main__":
    main()
