"""``python -m unbatch``."""

from unbatch.cli import main

if __name__ == "__main__":
    main()
