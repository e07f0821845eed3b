"""Image quality by cleanvision."""

import contextlib
import io

import numpy as np
import pandas as pd

from crackutils import config
from crackutils.datasets import Dataset


def image_quality(ds: Dataset) -> pd.DataFrame:
    """Find dark, bright, blurred, empty and oddly shaped images with cleanvision; CrackutilsError without it.

    Returns:
        A row per image in index order: row, and for each issue of cleanvision is_<issue>_issue and <issue>_score (0 the
        worst, 1 the best).
    """
    try:
        from cleanvision import Imagelab
    except ImportError as error:
        raise config.CrackutilsError("The audit of quality needs cleanvision. Run pip install cleanvision.") from error
    files = [str(ds.folder / file) for file in ds.index["file"]]
    lab = Imagelab(filepaths=files)
    issues = ("dark", "light", "blurry", "low_information", "odd_size", "odd_aspect_ratio")
    with contextlib.redirect_stdout(io.StringIO()):  # its report repeats the table
        lab.find_issues({name: {} for name in issues}, n_jobs=1, verbose=False)
    return lab.issues.loc[files].reset_index(drop=True).assign(row=np.arange(len(files)))
