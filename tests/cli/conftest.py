"""Commands train on the model of the training tests, and ask the server of the API's."""

from tests.api.conftest import client, host, listening, refused, serve
from tests.training.conftest import config, model, pictures, train

__all__ = ["client", "config", "host", "listening", "model", "pictures", "refused", "serve", "train"]
