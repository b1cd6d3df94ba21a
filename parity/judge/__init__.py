"""The implementations judged: a process for each, their records, the judgement."""
