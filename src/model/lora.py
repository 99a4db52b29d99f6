"""Which weights of a backbone train: LoRA at named sites, nothing, or everything.

In: a `Backbone` with its named `sites`. Out: the same backbone with exactly the chosen weights trainable, and
one `SiteReport` per site. The action queries are new and have no pretrained value, so they train unless it is said
otherwise.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from src.core.errors import ProjectError
from src.model.backbone.base import Backbone


@dataclass(frozen=True)
class SiteReport:
    """One row of the placement table: what a site matched and how many parameters train there."""

    site: str
    modules: int
    trainable: int


class Placement(ABC):
    """Decides which of a backbone's weights train."""

    @abstractmethod
    def apply(self, backbone: Backbone) -> list[SiteReport]:
        """Freezes and unfreezes in place; returns the placement table.

        Raises:
            ProjectError: the placement makes no sense on this backbone.
        """


class NonePlacement(Placement):
    """Nothing of the backbone's network trains; the action queries and the head do."""

    def apply(self, backbone: Backbone) -> list[SiteReport]:
        _require_pretrained(backbone, "none")
        backbone.requires_grad_(False)
        return [_train_queries(backbone)]


class HeadOnlyPlacement(Placement):
    """Nothing of the backbone trains, not even the action queries, so its states never change."""

    def apply(self, backbone: Backbone) -> list[SiteReport]:
        _require_pretrained(backbone, "head_only")
        backbone.requires_grad_(False)
        return []


class FullPlacement(Placement):
    """Every weight of the backbone trains."""

    def apply(self, backbone: Backbone) -> list[SiteReport]:
        if backbone.quantized:
            raise ProjectError(
                "model.lora: found full with quantised weights, which have no gradient; choose "
                "model.backbone.quantization=null, or LoRA such as model/lora=text_all."
            )
        narrow = {str(p.dtype)[6:] for p in backbone.network.parameters()} - {"float32"}
        if narrow:
            raise ProjectError(
                f"model.lora: found full with {' and '.join(sorted(narrow))} weights, in which small steps vanish (3 % "
                "of them moved in a test), expected float32; set model.backbone.dtype=float32, for Kosmos-2 "
                "model=kosmos_full."
            )
        backbone.requires_grad_(True)
        return [
            SiteReport("network", _count_modules(backbone.network), _trainable(backbone.network)),
            _train_queries(backbone),
        ]


class LoraPlacement(Placement):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) through peft, at sites named by full module path.

    Suffix targets such as `q_proj` match vision tower, projector and text model alike in Kosmos-2, so peft is
    given the complete list of full paths.
    """

    def __init__(
        self,
        sites: Mapping[str, str | int | None],
        rank: int,
        alpha: float,
        dropout: float,
        rslora: bool = False,
        dora: bool = False,
        train_queries: bool = True,
    ) -> None:
        """
        Args:
            sites: site name -> `all`, k for the last k layers, or null for none there.
            rank: r of the adapter matrices.
            alpha: the adapter is scaled by alpha / r (alpha / sqrt(r) with rslora).
            dropout: on the adapter's input, 0 to 1.
            rslora: rank-stabilised scaling (Kalajdzievski 2023, arXiv:2312.03732).
            dora: weight-decomposed adapters (Liu et al. 2024, arXiv:2402.09353), about 30 % slower.
            train_queries: false leaves the action queries as they start, so that text layers below the first adapter
                see the same in every epoch and need not be computed again (src/model/features).

        Raises:
            ProjectError: no site is named, the rank is below 1, alpha not above 0, or the dropout outside 0 to 1.
        """
        chosen = {site: layers for site, layers in sites.items() if layers is not None}
        if not chosen:
            raise ProjectError(
                "model.lora.sites: found none, expected at least one site; name one, or choose model/lora=none."
            )
        if rank < 1:
            raise ProjectError(
                f"model.lora.rank: found {rank}, expected at least 1; choose model/lora=none for no adapters."
            )
        if not (math.isfinite(alpha) and alpha > 0):
            raise ProjectError(
                f"model.lora.alpha: found {alpha}, expected a finite number above 0, for the adapter is scaled by "
                "alpha / rank; correct it."
            )
        if not 0.0 <= dropout < 1.0:
            raise ProjectError(f"model.lora.dropout: found {dropout}, expected 0 to below 1; correct it.")
        self.sites = chosen
        self.rank, self.alpha, self.dropout, self.rslora, self.dora = rank, alpha, dropout, rslora, dora
        self.train_queries = train_queries

    def apply(self, backbone: Backbone) -> list[SiteReport]:
        from peft import LoraConfig, inject_adapter_in_model

        _require_pretrained(backbone, "DoRA adapters" if self.dora else "LoRA adapters")
        backbone.requires_grad_(False)
        matched = {site: self._modules(backbone, site, layers) for site, layers in self.sites.items()}
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft annotates int, its arithmetic takes floats
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            use_dora=self.dora,
            target_modules=[path for paths in matched.values() for path in paths],
        )
        inject_adapter_in_model(config, backbone.network)
        # Steps of 1e-4 vanish when added to bfloat16 weights, so adapters of a bfloat16 model train in float32.
        for parameter in backbone.network.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        reports = [
            SiteReport(
                site, len(paths), sum(_trainable(backbone.network.get_submodule(path)) for path in paths)
            )
            for site, paths in matched.items()
        ]
        return [*reports, _train_queries(backbone)] if self.train_queries else reports

    @staticmethod
    def _modules(backbone: Backbone, site: str, layers: str | int) -> list[str]:
        if site not in backbone.sites:
            raise ProjectError(
                f"model.lora.sites: found {site!r}, this backbone has {', '.join(backbone.sites)}; use one of these, "
                f"or set model.lora.sites.{site}=null."
            )
        pattern = re.compile(backbone.sites[site])
        matches = [
            match
            for path, module in backbone.network.named_modules()
            if (match := pattern.fullmatch(path)) is not None
        ]
        if pattern.groups and matches:
            # Layers whose output nobody reads would get no gradient, so they are not among the last k.
            depth = 1 + max(int(match.group(1)) for match in matches) - backbone.unread_layers.get(site, 0)
            matches = [match for match in matches if int(match.group(1)) < depth]
            if layers != "all":
                if not isinstance(layers, int) or not 1 <= layers <= depth:
                    raise ProjectError(
                        f"model.lora.sites.{site}: found {layers!r}, expected `all` or 1 to {depth} last layers; "
                        f"set model.lora.sites.{site}={depth}, or choose another model/lora."
                    )
                matches = [match for match in matches if int(match.group(1)) >= depth - layers]
        elif layers != "all":
            raise ProjectError(
                f"model.lora.sites.{site}: found {layers!r}, but this site has no layers; write `all`."
            )
        if not matches:
            raise ProjectError(
                f"model.lora.sites.{site}: its pattern {pattern.pattern} matches no module of "
                f"{type(backbone.network).__name__}, so nothing would train there; correct the backbone's `sites`."
            )
        return [match.group(0) for match in matches]


def _require_pretrained(backbone: Backbone, wanted: str) -> None:
    if not backbone.pretrained:
        raise ProjectError(
            f"model.lora: found {wanted} on {type(backbone).__name__}, whose weights start at random and must all "
            "train; choose model/lora=full."
        )


def _train_queries(backbone: Backbone) -> SiteReport:
    queries = [p for name, p in backbone.named_parameters(recurse=False)]
    for parameter in queries:
        parameter.requires_grad_(True)
    return SiteReport("action queries", len(queries), sum(p.numel() for p in queries))


def _trainable(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _count_modules(module: nn.Module) -> int:
    return sum(1 for child in module.modules() if any(True for _ in child.parameters(recurse=False)))
