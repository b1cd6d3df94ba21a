"""`python -m parity` is `segact-parity`."""

from parity.cli import main

if __name__ == "__main__":
    main()
