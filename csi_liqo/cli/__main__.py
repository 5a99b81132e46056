"""``python -m csi_liqo.cli``."""

from csi_liqo import cli

cli.main()
