"""The number of tasks per second of a Dask scheduler, and so its overhead in a sweep.

    python scripts/tasks_a_second.py

The jobs sleep, like the task of a sweep while its training runs in another process, on 100 threads
of two workers on this machine. The overhead is their time minus the sleep; for the same number of
runs and threads it is the same for runs of any length.
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
"""A text as long as the arguments of a training."""
RUN = 600


def sleep(words: list[str], seconds: float) -> list[str]:
    time.sleep(seconds)
    return words


def took(client: Client, seconds: float) -> float:
    """The time of all jobs, from the first submission to the last result."""
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
        took(client, 0)  # the first run makes the workers import this module
        for seconds in (0, 0.1, 1):
            best = min(took(client, seconds) for _ in range(TRIES))
            least = seconds * JOBS / slots
            print(f"{seconds:10.1f} s {best:6.2f} s {least:18.1f} s {JOBS / best:15.0f}")
    whole = RUN * JOBS / slots + best - least
    print(f"{JOBS:,} runs of {RUN // 60} min on {slots} threads: {whole / 60:.2f} min")


if __name__ == "__main__":
    main()
