"""`python -m rekindle`: the command line, for interpreters whose scripts are not on the path."""

from __future__ import annotations

from rekindle.cli.main import main

if __name__ == "__main__":
    main()
