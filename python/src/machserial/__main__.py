"""python -m machserial is the machserial command."""

from machserial.cli import main

main(prog_name="machserial")
