"""``python -m lmoe_ray`` is ``lmoe``."""

from lmoe_ray.cli.main import main

main()
