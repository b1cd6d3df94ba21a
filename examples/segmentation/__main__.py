"""`python -m examples.segmentation`."""

from examples.segmentation.cli import main

if __name__ == "__main__":
    main()
