"""Judging the implementations: a process for each, their records, the judgement."""
