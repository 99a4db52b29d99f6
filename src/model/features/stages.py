"""Owns where a policy is cut in two: below, all is frozen and a frame always becomes the same; above, something trains.

    frame ─ lower ─► kept ─ upper ─► memory of the frame

In: which weights train (`requires_grad`, set by model.lora), and the history. Out: the highest such cut, one of

    frames    the vision side trains: lower does nothing
    latents   vision tower and projector are frozen: kept are the image latents
    hidden    so are the queries and the lowest k text layers: kept is what layer k gets
    states    nothing below the head trains: kept are the states

There is no second switch. With or without a cache a frame takes this one way; a cache only remembers `lower`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from src.model.backbone.base import Backbone
from src.model.history import History


@dataclass(frozen=True)
class Stage:
    """A cut.

    Attributes:
        name: `frames`, `latents`, `hidden` or `states`.
        layer: k of `hidden`, else 0.
        why: for people: what is frozen below it, and what keeps it from being higher.
    """

    name: str
    layer: int
    why: str

    @property
    def frozen(self) -> bool:
        """Whether there is anything below it."""
        return self.name != "frames"

    @property
    def heard(self) -> bool:
        """Whether what is kept depends on the instruction."""
        return self.name in ("hidden", "states")

    def lower(
        self, backbone: Backbone, history: History, frames: Tensor, ids: Tensor, mask: Tensor
    ) -> Tensor:
        """`frames (N, 3, h, w)` uint8, `ids (N, L)`, `mask (N, L)` -> what is kept of each frame, `(N, …)`.

        Raises:
            RuntimeError: frames without pixels, see `BatchAssembler`.
        """
        if not frames.shape[2:].numel():
            raise RuntimeError(
                "frames without pixels: they stayed in their files, for what is made of them was kept when this batch "
                "was assembled; who computes it anew needs a batch with frames"
            )
        if not self.frozen:
            return frames
        latents = backbone.encode_images(backbone.preprocess(frames))
        if self.name == "latents":
            return latents
        if self.name == "states":
            return history.remember(backbone, latents, ids, mask)
        return backbone.encode_below(self.layer, latents[:, None], ids, mask)

    def upper(self, backbone: Backbone, history: History, kept: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """What `lower` gave, and the same words -> memory `(N, …)`."""
        if self.name == "states":
            return kept
        if self.name == "hidden":
            return backbone.encode_above(self.layer, kept, ids, mask)
        latents = kept if self.frozen else backbone.encode_images(backbone.preprocess(kept))
        return history.remember(backbone, latents, ids, mask)

    def still(self, backbone: Backbone) -> Sequence[nn.Module]:
        """The text layers below the cut; they never drop anything, or kept and fresh values would differ."""
        return list(backbone.text_layers)[: self.layer]

    def parts(self, backbone: Backbone) -> list[nn.Module]:
        """What `torch.compile` works on: the backbone's parts, its text layers one by one where the cut is in them."""
        modules = [backbone.network.get_submodule(path) for path in backbone.parts]
        if not self.layer:
            return modules
        layers = list(backbone.text_layers)
        return [part for part in modules if all(layer is not layers[0] for layer in part.modules())] + layers

    def weights(self, backbone: Backbone) -> dict[str, Tensor]:
        """Name -> value of everything that `lower` reads: parameters, buffers and, if it writes them, the queries."""
        network = backbone.network
        every = {**network.state_dict(), **dict(network.named_buffers())}
        above = self._above(backbone)
        found = {n: v for n, v in every.items() if isinstance(v, Tensor) and not n.startswith(above)}
        found |= {"backbone.mean": backbone.mean, "backbone.std": backbone.std}
        return found | ({"backbone.queries": backbone.queries} if self.heard else {})

    def _above(self, backbone: Backbone) -> tuple[str, ...]:
        """How the names of weights above the cut begin."""
        if self.name == "latents" and backbone.text_path:
            return (f"{backbone.text_path}.",)
        upper = {id(layer) for layer in list(backbone.text_layers)[self.layer :]} if self.layer else set()
        return tuple(f"{path}." for path, part in backbone.network.named_modules() if id(part) in upper)


def find_stage(backbone: Backbone, history: History) -> Stage:
    """The highest cut below everything that trains."""
    trained = [name for name, p in backbone.network.named_parameters() if p.requires_grad]
    seeing = [name for name in trained if not _reads_words(backbone, name)]
    if seeing:
        return Stage("frames", 0, f"the vision side trains ({seeing[0]})")
    queries = backbone.queries.requires_grad
    if history.per_frame and not trained and not queries:
        return Stage("states", 0, "nothing below the head trains")
    layer = _first_trained(backbone, trained)
    if history.per_frame and not queries and layer > 0:
        return Stage("hidden", layer, f"vision, queries and the lowest {layer} text layers are frozen")
    why = "vision tower and projector are frozen"
    if not history.per_frame:
        why += "; the text model reads whole windows (model.history), so nothing more belongs to one frame"
    elif queries and layer > 0:
        why += "; the action queries train through the frozen text layers"
        why += (
            ", model.lora.train_queries=false lets them be kept too"
            if trained
            else ", see model/lora=head_only"
        )
    return Stage("latents", 0, why)


def _reads_words(backbone: Backbone, name: str) -> bool:
    """Whether a weight of the network belongs to its text model; where that has no name, every weight may see."""
    return bool(backbone.text_path) and name.startswith(f"{backbone.text_path}.")


def _first_trained(backbone: Backbone, trained: Sequence[str]) -> int:
    """Number of the lowest text layers that, with all before them, are frozen; 0 where none can be cut off."""
    layers = list(backbone.text_layers)
    first = next(
        (i for i, one in enumerate(layers) if any(p.requires_grad for p in one.parameters())), len(layers)
    )
    inside = {id(p) for layer in layers for p in layer.parameters()}
    values = dict(backbone.network.named_parameters())
    return first if all(id(values[name]) in inside for name in trained) else 0
