"""Lets torchvision be imported beside a CPU build of torch: its compiled operators don't load there, and its Python code wants
two of them declared; nothing here calls them. `make test-vllm` puts this file into the site-packages of its venv alone, with a
`.pth` that imports it when Python starts."""

import importlib.abc
import sys

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
libraries = []  # an operator is declared as long as its library lives


class DeclareBeforeImport(importlib.abc.MetaPathFinder):
    """Finds nothing; declares the operators when torchvision is looked for."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and not libraries:
            import torch

            libraries.append(torch.library.Library("torchvision", "DEF"))
            for operator in OPERATORS:
                libraries[0].define(operator)


sys.meta_path.insert(0, DeclareBeforeImport())
