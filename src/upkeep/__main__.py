"""`python -m upkeep`: the same as the `upkeep` command."""

from upkeep.cli.main import main

main()
