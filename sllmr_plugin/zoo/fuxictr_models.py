"""DeepFM, DCNv2 and DIN written against FuxiCTR's public layers; to be imported only where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fuxictr.pytorch.layers import (
    CrossNetV2,
    DIN_Attention,
    FactorizationMachine,
    FeatureEmbedding,
    FeatureEmbeddingDict,
    MLP_Block,
)
from fuxictr.pytorch.models import BaseModel
from torch import Tensor

from ..errors import BackboneError


class _Backbone(BaseModel):
    """What the backbones share: the deep part, and the steps that every FuxiCTR constructor ends with."""

    def __init__(
        self,
        feature_map: Any,
        *,
        embedding_dim: int = 16,
        hidden_units: Sequence[int] = (256, 128),
        net_dropout: float = 0.0,
        batch_norm: bool = False,
        learning_rate: float = 1e-3,
        optimizer: str = "adam",
        loss: str = "binary_crossentropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_map, **kwargs)
        self.embedding_dim = embedding_dim
        self.input_dim = embedding_dim * feature_map.num_fields
        self._deep: dict[str, Any] = {
            "hidden_units": list(hidden_units),
            "dropout_rates": net_dropout,
            "batch_norm": batch_norm,
        }
        self.build()
        self.compile(optimizer, loss, learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def build(self) -> None:
        raise NotImplementedError

    def deep(self, output_dim: int | None = 1) -> MLP_Block:
        """Build the deep part over all embeddings."""
        return MLP_Block(self.input_dim, output_dim=output_dim, **self._deep)

    def logit(self, X: dict[str, Tensor]) -> Tensor:
        """Return the logits, (n_rows, 1), of features."""
        raise NotImplementedError

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the probabilities of a batch as ``y_pred``, (n_rows, 1)."""
        return {"y_pred": self.output_activation(self.logit(self.get_inputs(inputs)))}


class DeepFM(_Backbone):
    """Factorization machine and deep part side by side (Guo et al., 2017)."""

    def build(self) -> None:
        """Build the layers."""
        self.embedding_layer = FeatureEmbedding(self.feature_map, self.embedding_dim)
        self.fm = FactorizationMachine(self.feature_map)
        self._start_weights_of_histories()
        self.mlp = self.deep()

    def _start_weights_of_histories(self) -> None:
        """Draw first-order weights as small as the others: FuxiCTR leaves N(0, 1) where a feature shares embeddings."""
        features = self.fm.lr_layer.embedding_layer.embedding_layer
        for name, spec in self.feature_map.features.items():
            if "share_embedding" in spec:
                features.embedding_initializer(features.embedding_layers[name].weight[1:, :])  # code 0 stays zero

    def logit(self, X: dict[str, Tensor]) -> Tensor:
        """Add up both parts."""
        embedding = self.embedding_layer(X)
        return self.fm(X, embedding) + self.mlp(embedding.flatten(start_dim=1))


class DCNv2(_Backbone):
    """Cross network with matrices beside a deep part (Wang et al., 2021)."""

    def build(self) -> None:
        """Build the layers."""
        self.embedding_layer = FeatureEmbedding(self.feature_map, self.embedding_dim)
        self.cross = CrossNetV2(self.input_dim, num_layers=2)
        self.mlp = self.deep(output_dim=None)
        self.final = torch.nn.Linear(self.input_dim + self._deep["hidden_units"][-1], 1)

    def logit(self, X: dict[str, Tensor]) -> Tensor:
        """Combine both parts linearly."""
        embedding = self.embedding_layer(X, flatten_emb=True)
        return self.final(torch.cat([self.cross(embedding), self.mlp(embedding)], dim=-1))


class DIN(_Backbone):
    """Attention of the candidate over the user's history (Zhou et al., 2018).

    The candidate is all features that have a history which no ``feature_encoder`` pools.
    """

    def build(self) -> None:
        """Build the layers."""
        specs = self.feature_map.features
        pooled = {name for name, spec in specs.items() if "feature_encoder" in spec}
        self.din_target_field = [name for name in specs if f"hist_{name}" in specs and f"hist_{name}" not in pooled]
        if not self.din_target_field:
            raise BackboneError("DIN has no history to attend to. Write the data set with backbone='din'.")
        width = self.embedding_dim * len(self.din_target_field)
        self.embedding_layer = FeatureEmbeddingDict(self.feature_map, self.embedding_dim)
        self.attention = DIN_Attention(width, attention_units=[64], hidden_activations="Dice")
        self.mlp = self.deep()

    def logit(self, X: dict[str, Tensor]) -> Tensor:
        """Replace the history by its weighted sum."""
        histories = [f"hist_{name}" for name in self.din_target_field]
        embedding = self.embedding_layer(X)
        target = torch.cat([embedding[name] for name in self.din_target_field], dim=-1)
        past = torch.cat([embedding[name] for name in histories], dim=-1)
        interest = self.attention(target, past, X["hist_item_id"] != 0)
        embedding |= dict(zip(histories, interest.split(self.embedding_dim, dim=-1), strict=True))
        return self.mlp(self.embedding_layer.dict2tensor(embedding, flatten_emb=True))
