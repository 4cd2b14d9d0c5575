"""``python -m isometry`` is the command line."""

from isometry.cli import main

if __name__ == "__main__":
    main()
