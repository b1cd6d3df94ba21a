"""Everything that needs a GPU, in one run without a network: `python -m scripts.gpu`.

The programs of this repository do the work: the judge, the benchmarks, the examples. This runs
them, each in a process of its own, and puts what they found on one page.
"""
