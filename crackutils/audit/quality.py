"""Doubts about the data and the models: wrong labels, image quality, leakage measured, accuracy per slice."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crackutils import config, datasets


def image_quality(ds: datasets.Dataset) -> pd.DataFrame:
    """Look for dark, bright, blurred, empty and oddly shaped images with cleanvision.

    Returns:
        A row per image in index order: row, and for each issue of cleanvision is_<issue>_issue and <issue>_score (0 the
        worst, 1 the best).

    Raises:
        CrackutilsError: cleanvision is missing.
    """
    try:
        from cleanvision import Imagelab
    except ImportError as error:
        raise config.CrackutilsError(
            "The look at image quality needs cleanvision: run pip install cleanvision."
        ) from error
    import contextlib
    import io

    files = [str(ds.folder / file) for file in ds.index["file"]]
    lab = Imagelab(filepaths=files)
    wanted = ("dark", "light", "blurry", "low_information", "odd_size", "odd_aspect_ratio")
    with contextlib.redirect_stdout(io.StringIO()):  # its report repeats what the table says
        lab.find_issues({name: {} for name in wanted}, n_jobs=1, verbose=False)
    return lab.issues.loc[files].reset_index(drop=True).assign(row=np.arange(len(files)))
