"""`python -m tools COMMAND`. `setup` runs before any import of installed packages."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["setup"]:
        from tools.setup import main
    else:
        try:
            from tools.commands import main
        except ModuleNotFoundError as error:
            print("error: %s is not installed. Run make setup first." % error.name, file=sys.stderr)  # noqa: UP031
            sys.exit(2)
    sys.exit(main())
