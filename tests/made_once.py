"""What libraries do again for each run in a process, half of the time of a short one. A command that is started alone does it
all, as do the first run of a process of pytest, and the process of `prepared_python`."""

import gc
import os

from lightning.pytorch.cli import LightningCLI
from transformers import PreTrainedConfig

from taro.run.cli import SettingsAlone, parse

set_up = LightningCLI.setup_parser
parsers = {}  # by the module that they are for


def set_up_once(cli, *arguments):
    """Parsers do not change when they parse."""
    if cli.model_class not in parsers:
        set_up(cli, *arguments)
        parsers[cli.model_class] = cli.parser
    cli.parser = parsers[cli.model_class]


def make_parser():
    """And all that is made when it is first used."""
    parse([], SettingsAlone)


LightningCLI.setup_parser = set_up_once
# transformers words each config that it reads for a line of its log that is not shown.
PreTrainedConfig.__repr__ = object.__repr__
os.fsync = lambda file: None  # waits for the disk; what a process leaves behind that is killed is the same without it
gc.freeze()  # half a million objects of imported modules, which each full collection would look at
