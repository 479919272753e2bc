"""`python -m minifinetuning.cli`."""

import sys

from minifinetuning.cli.verbs import main

sys.exit(main())
