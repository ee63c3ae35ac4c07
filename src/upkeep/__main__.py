"""`python -m upkeep`: the command line, where the script `upkeep` is not on the PATH."""

from upkeep.cli.main import main

main()
