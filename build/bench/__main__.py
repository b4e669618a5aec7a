"""`python -m build.bench`, the same as `python -m build bench`."""

from build.bench.cli import main

raise SystemExit(main())
