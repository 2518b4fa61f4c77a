"""`python -m blockyard`: the command line, as the script `blockyard` is."""

from blockyard.cli import main

if __name__ == "__main__":
    main()
