"""`python -m search.cli` runs the same command."""

from search.cli.main import main

if __name__ == "__main__":
    main()
