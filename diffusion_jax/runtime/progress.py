"""Progress bars: a widget in a notebook, a line of text everywhere else."""

import warnings

from tqdm import TqdmWarning

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)  # a notebook without ipywidgets has the line of text, which is enough
    from tqdm.auto import tqdm as progress_bar

__all__ = ["progress_bar"]
