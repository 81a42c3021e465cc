"""``python -m zappend``."""

from zappend.cli import main

main()
