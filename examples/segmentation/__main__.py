"""`python -m examples.segmentation`."""

from parity.common.extras import needs

if __name__ == "__main__":
    with needs("segmentation", "examples"):
        from examples.segmentation.cli import main

        main()
