"""What is right: the values and gradients that implementations are held against."""

from pathlib import Path

REFERENCE_PATH = Path(__file__).with_name("record.safetensors")
"""The shipped record of the 50-digit reference."""
