"""The command line: parse, call, print. No logic."""


def main() -> None:
    """Run the command line."""
