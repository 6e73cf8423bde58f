"""Started by torchrun: each rank trains every CONFIG as a part of one run and writes FOLDER/rank{0,1}.json."""

import json
import os
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    run = runpy.run_path(str(Path(__file__).with_name("processes.py")))["run"]
    split = "train.devices=2", "train.strategy=ddp", "train.batch_size=2"
    configs = [Path(argument) for argument in sys.argv[2:]]
    found = {config.stem: run(config, f"two_{config.stem}", *split) for config in configs}
    Path(sys.argv[1], f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))
