"""`python -m build.bench`, the same as `python -m build bench`."""

from build.bench.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
