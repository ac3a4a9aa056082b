"""Small data for tests: arrays, and TFDS datasets as `tfds build --file_format=array_record` prepares them."""

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

Example = dict[str, Any]


def arrays(n=20, shape=(4, 4, 1), classes=5, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """n images of noise, uint8 [N, *shape], with the labels 0, 1, ... in turn."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *shape), dtype=np.uint8), np.arange(n) % classes


def stacked(source, name: str) -> np.ndarray:
    """One field of all examples of a source."""
    return np.stack([source.rows[i][name] for i in range(len(source))])


def one_line(error) -> str:
    """The message of an exception that pytest caught, which must be one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def examples(n: int, shape: tuple[int, int, int], seed: int) -> list[Example]:
    """n images of noise with the labels 0, 1, ..., 9 in turn."""
    images, labels = arrays(n, shape, 10, seed)
    return [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]


def prepare(
    data_dir: Path,
    name: str,
    version: str,
    shape: tuple[int | None, int | None, int],
    splits: dict[str, list[Example]],
    dtype: type = np.uint8,
    class_names: list[str] | None = None,
    **features: Any,
) -> None:
    """Writes a dataset below `data_dir`. `features` replaces "image" and "label"; None leaves one out."""
    with redirect_stderr(io.StringIO()):  # it warns that TensorFlow is missing
        import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=class_names, num_classes=None if class_names else 10)
    features = {"image": tfds.features.Image(shape=shape, dtype=dtype), "label": label} | features
    features = {key: value for key, value in features.items() if value is not None}

    def generate(rows: list[Example]):
        for i, row in enumerate(rows):
            yield i, {key: _png(row[key], dtype) if key == "image" else row[key] for key in features}

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _):
            return {split: generate(rows) for split, rows in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    Prepared.name = name
    # It would look for the real dataset's description in the network.
    with mock.patch.object(tfds.core.DatasetInfo, "initialize_from_bucket"), redirect_stderr(io.StringIO()):
        Prepared(data_dir=str(data_dir), file_format="array_record").download_and_prepare()


def _png(image: np.ndarray, dtype: type) -> io.BytesIO:
    """Encoded pixels: TFDS would need TensorFlow to encode them."""
    file = io.BytesIO()
    Image.fromarray(image.astype(dtype).squeeze()).save(file, "PNG")
    file.seek(0)
    return file
