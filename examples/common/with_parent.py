"""`python -m examples.common.with_parent MODULE ...`: a program that ends with its parent.

Its standard input is a pipe, which closes when the parent process ends, also by a kill.
"""

import os
import runpy
import sys
import threading


def _end_with_parent() -> None:
    while os.read(0, 1):  # sys.stdin would still be locked when Python ends
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
