"""Action data that start before they are there: numbers first, each video when a sample first needs it.

Numbers are small and videos are large: of a Hub dataset the tables are downloaded, which gives every
sample its place, statistics and filters, and videos stay. So a streamed dataset is the map-style one, with the same
samples, the same exact resume and any number of workers. What differs is the order: evenly random indices would ask
for every video within the first batches, so samples are dealt out from a few videos at a time.

What was downloaded stays in the Hub's cache: after one pass over the data, all of it is on disk.
"""

import numpy as np
from torch.utils.data import Dataset

from training_st4vla.data.action_dataset import LeRobotActionDataset


class StreamedOrder(Dataset):
    """A dataset with an order of its own for [`MixtureDataset`]: shuffled videos, and shuffled samples of a few.

    In each lap the videos are shuffled, taken `window` at a time, and the samples of these are shuffled. Everything
    else is the dataset's, and a single one is a mixture of one.

    Args:
        dataset: Opened with `stream=True`, or local (then it saves seeking in many files).
        window: Videos that samples are mixed from at a time. More mix better and wait longer for the first batch.
    """

    def __init__(self, dataset: LeRobotActionDataset, window: int = 32) -> None:
        if window < 1:
            raise ValueError(f"window: expected at least 1, found {window}.")
        self.dataset, self.window = dataset, window
        files = dataset.files_of_samples()
        by_file = np.argsort(files, kind="stable")
        self._samples_of_file = np.split(by_file, np.cumsum(np.bincount(files))[:-1])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        return self.dataset[index]

    def permutation(self, seed: tuple[int, ...], lap: int) -> np.ndarray:
        """The order of a lap: int64 `[len(self)]`, each index once."""
        draw = np.random.default_rng((*seed, lap))
        files = draw.permutation(len(self._samples_of_file))
        windows = [files[start : start + self.window] for start in range(0, len(files), self.window)]
        pools = [np.concatenate([self._samples_of_file[file] for file in window]) for window in windows]
        return np.concatenate([draw.permutation(pool) for pool in pools])


__all__ = ["StreamedOrder"]
