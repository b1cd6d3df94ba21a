"""How many tasks a second a Dask scheduler hands out, and so what it adds to a sweep.

    python scripts/tasks_a_second.py

Jobs that sleep, as the task of a sweep does while its training runs in a process of its own, on
100 threads of two workers on this machine. What the scheduler adds is what they take longer than
their sleep; of as many runs on as many threads it adds the same, however long the runs are.
"""

import logging
import os
import time
from uuid import uuid4

from parity.common.extras import needs

with needs("tasks_a_second", "sweep"):
    from distributed import Client, LocalCluster, as_completed

WORKERS, THREADS, JOBS, TRIES = 2, 50, 1000, 3
WORDS = ["--option", "value"] * 20
"""As long as the arguments of a training."""
RUN = 600


def sleep(words: list[str], seconds: float) -> list[str]:
    time.sleep(seconds)
    return words


def took(client: Client, seconds: float) -> float:
    """All jobs, from the first that is submitted to the last result that is there."""
    since = time.monotonic()
    keys = [f"sleep-{uuid4().hex}" for _ in range(JOBS)]
    futures = client.map(sleep, [WORDS] * JOBS, [seconds] * JOBS, key=keys, pure=False)
    for future in as_completed(futures):
        future.result()
    return time.monotonic() - since


def main() -> None:
    cluster = LocalCluster(
        n_workers=WORKERS,
        threads_per_worker=THREADS,
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
        silence_logs=logging.CRITICAL,
    )
    slots = WORKERS * THREADS
    print(f"{JOBS:,} jobs on {slots} threads, {os.cpu_count()} cores, the best of {TRIES}")
    print("sleep of each    all    without a scheduler   jobs a second")
    with cluster, Client(cluster) as client:
        took(client, 0)  # the first has workers import this module
        for seconds in (0, 0.1, 1):
            best = min(took(client, seconds) for _ in range(TRIES))
            least = seconds * JOBS / slots
            print(f"{seconds:10.1f} s {best:6.2f} s {least:18.1f} s {JOBS / best:15.0f}")
    whole = RUN * JOBS / slots + best - least
    print(f"{JOBS:,} runs of {RUN // 60} min on {slots} threads: {whole / 60:.2f} min")


if __name__ == "__main__":
    main()
