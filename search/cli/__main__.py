"""`python -m search.cli` is the command too."""

from search.cli.main import main

if __name__ == "__main__":
    main()
