"""`python -m jobs.cli`, as torchrun starts it."""

from jobs.cli import main

if __name__ == "__main__":
    main()
