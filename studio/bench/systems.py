"""Published systems of preference training, each as what it changes of the studio's default.

Only systems that the settings can express are rows; docs/systems.md says what was read where.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from studio.settings import OBJECTIVES, TrainingSettings


@dataclass(frozen=True)
class System:
    """paper: the arXiv id; changes: settings by name, in which the adapter "another" stands for one
    of the artist's; preset: those that the changes start from."""

    paper: str
    changes: dict[str, Any]
    preset: str = "diffusion_dpo"

    @property
    def settings(self) -> TrainingSettings:
        return replace(OBJECTIVES[self.preset], **self.changes)


SYSTEMS: dict[str, System] = {
    "Diffusion-DPO": System("2311.12908", {}),
    "D3PO": System("2311.13231", {}, "d3po"),
    "D3PO, steps weighted equally": System("2311.13231", {}, "d3po_balanced"),
    "D3PO, steps given the end": System(
        "2311.13231",
        {"loss": "d3po_given_end", "timestep_fraction": 0.4, "steps_per_pair": 8},
    ),
    "IPO": System("2310.12036", {"form": "ipo"}),
    "SLiC, RSO": System("2309.06657", {"form": "hinge"}),
    "P3O": System("2310.00212", {"form": "linear"}),
    "Conservative DPO": System("2401.06080", {"form": "smoothed"}),
    "Robust DPO": System("2403.00409", {"form": "robust"}),
    "f-DPO, Jensen-Shannon": System("2309.16240", {"form": "jensen_shannon"}),
    "f-DPO, forward KL": System("2309.16240", {"form": "forward_kl"}),
    "f-DPO, alpha 1/2": System("2309.16240", {"form": "half_alpha"}),
    "RPO": System("2405.16436", {"form": "anchored"}),
    "3D-properties": System("2406.07327", {"form": "asymmetric"}),
    "NCA": System("2402.05369", {"form": "nca"}),
    "SmPO, strengths only": System("2506.02698", {"count_strength": True}),
    "TDPO, beside the picks": System("2509.25771", {"keep_to_prompt": 1.0}),
    "RankDPO, true ranks": System("2410.18013", {"orders": "rank"}),
    "Plackett-Luce": System("2305.18290", {"orders": "list"}),
    "SePPO, own pictures of the base": System(
        "2410.05255", {"form": "seppo", "favourites_alone": True}
    ),
    "MODPO": System("2310.03708", {"beside": "another", "beside_share": 0.5}),
    "PAL, adapters as prototypes": System("2406.08469", {"from_tastes": True}),
    "SPPO": System("2405.00675", {"form": "sppo"}),
    "KTO, on pairs": System("2402.01306", {"form": "kto"}),
    "BCO, on pairs": System("2404.04656", {"form": "bco"}),
}
