"""The layer that saved models name besides those of Keras. Importing this module starts TensorFlow."""

from typing import Any

from crackutils.config import keras
from crackutils.models import top_count


@keras.saving.register_keras_serializable("crackutils", name="_TopMean")  # the name in saved models
class TopMean(keras.layers.Layer):
    """The mean of the largest values of a map: (n, h, w, 1) to (n, 1); `share` of the h x w values, at least two."""

    def __init__(self, share: float, **options: Any) -> None:
        """Take the share, and what every layer takes."""
        super().__init__(**options)
        self.share = share

    def call(self, x: Any) -> Any:
        """Return the means."""
        flat = keras.ops.reshape(x, (-1, x.shape[1] * x.shape[2]))
        largest = keras.ops.top_k(flat, top_count(self.share, flat.shape[1]))[0]
        return keras.ops.mean(largest, axis=-1, keepdims=True)

    def get_config(self) -> dict[str, Any]:
        """Return what a saved model holds."""
        return super().get_config() | {"share": self.share}
