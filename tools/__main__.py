"""`python -m tools COMMAND`. `setup` is answered before anything that has to be installed is imported."""

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
