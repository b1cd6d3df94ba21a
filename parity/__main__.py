"""`python -m parity` is `segact-parity`."""

from parity.common.extras import needs


def main() -> None:
    """The console script."""
    with needs("segact-parity", "parity"):
        from parity import cli

        cli.main()


if __name__ == "__main__":
    main()
