"""Makes atlases offline: `python -m build plan | run | check …`."""
