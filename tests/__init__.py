"""The tests, in the rooms of what they test; what several of them share lies here."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
