"""Everything that needs a GPU, in one run without a network: `python -m scripts.gpu`.

It runs the programs of this repository (the judge, the benchmarks, the examples), each in its own
process, and writes their results to one page.
"""
