"""The layer of this package that saved models contain. Importing this module starts TensorFlow."""

from typing import Any

from crackutils.config import keras
from crackutils.models import top_count


@keras.saving.register_keras_serializable("crackutils", name="_TopMean")  # the name in saved models
class TopMean(keras.layers.Layer):
    """The mean of the largest values of a map: (n, h, w, 1) to (n, 1); `share` of the h x w values, at least two."""

    def __init__(self, share: float, **options: Any) -> None:
        """Take the share, and the options of every Keras layer."""
        super().__init__(**options)
        self.share = share

    def call(self, x: Any) -> Any:
        """Return the means."""
        flat = keras.ops.reshape(x, (-1, x.shape[1] * x.shape[2]))
        largest = keras.ops.top_k(flat, top_count(self.share, flat.shape[1]))[0]
        return keras.ops.mean(largest, axis=-1, keepdims=True)

    def get_config(self) -> dict[str, Any]:
        """Return the settings for saved models."""
        return super().get_config() | {"share": self.share}
