"""De-noise a binary image with a pairwise random field, as figures 8.30 to 8.32 of Bishop 2006 do.

    python scripts/denoise_image.py --output docs/images/denoise.png

A picture is drawn, some of its pixels are flipped, and it is asked for again: each pixel likes to equal its four
neighbours (``--coupling``, nats) and what was seen of it (``--trust``). Iterated conditional modes and loopy max-sum
look for the configuration of the least energy; a minimum cut finds it.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, PathPatch, Rectangle
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from recsys_vae.atomic import atomic_path
from recsys_vae.errors import UserError
from recsys_vae.graphical.pairwise_field import BinaryField, iterated_conditional_modes, loopy_max_sum

HEIGHT, WIDTH = 120, 200
_INK, _PAPER, _FRAME, _MUTED, _WRONG = "#1f2937", "#fbfaf7", "#cbd5e1", "#64748b", "#d9480f"
_CAPACITY_SCALE = 10**6  # capacities of a cut are whole numbers: a millionth of a nat


@dataclass(frozen=True)
class Cleaned:
    """What a method makes of the noisy picture."""

    name: str
    image: np.ndarray
    energy: float
    seconds: float
    note: str


def draw_picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Ink as ones: a name, and a factor graph beneath it. Every size shows the same."""
    figure = Figure(figsize=(width / 100.0, height / 100.0), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")
    text = TextPath((0, 0), "Bayes", size=72, prop=FontProperties(family="DejaVu Serif", weight="bold"))
    box = text.get_extents()
    fit = Affine2D().translate(-box.x0, -box.y0).scale(176 / box.width, 62 / box.height).translate(12, 48)
    axes.add_patch(PathPatch(fit.transform_path(text), facecolor="black", linewidth=0))
    axes.add_patch(Rectangle((24, 20.5), 152, 3, facecolor="black", linewidth=0))
    for number, x in enumerate(np.linspace(24, 176, 5)):
        if number % 2:
            axes.add_patch(Rectangle((x - 9, 13), 18, 18, facecolor="black", linewidth=0))
        else:
            axes.add_patch(Circle((x, 22), 13, facecolor="black", linewidth=0))
            axes.add_patch(Circle((x, 22), 8.5, facecolor="white", linewidth=0))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, 0] < 128


def flip(image: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Each pixel is turned over with this probability."""
    return image ^ (np.random.default_rng(seed).random(image.shape) < share)


def grid_edges(height: int, width: int) -> np.ndarray:
    """Pairs of pixels side by side or one above the other, ``(2, edges)``; pixels are numbered row by row."""
    pixels = np.arange(height * width).reshape(height, width)
    beside = np.stack([pixels[:, :-1].ravel(), pixels[:, 1:].ravel()])
    beneath = np.stack([pixels[:-1].ravel(), pixels[1:].ravel()])
    return np.concatenate([beside, beneath], axis=1)


def field_of(noisy: np.ndarray, coupling: float, trust: float) -> BinaryField:
    """``exp(coupling sum s_i s_j + trust sum s_i y_i)`` with s and y being -1 or 1, written for states 0 and 1."""
    edges = torch.from_numpy(grid_edges(*noisy.shape))
    neighbours = torch.bincount(edges.ravel(), minlength=noisy.size).double()
    seen = 2.0 * torch.from_numpy(noisy.ravel()).double() - 1.0
    couplings = torch.full((edges.shape[1],), 4.0 * coupling, dtype=torch.float64)
    return BinaryField(edges, couplings, 2.0 * trust * seen - 2.0 * coupling * neighbours)


def minimum_cut(noisy: np.ndarray, coupling: float, trust: float) -> np.ndarray:
    """The picture of the least energy (Greig, Porteous & Seheult 1989), to a millionth of a nat a term.

    Pixels on the source's side of the cut are ink: cutting an edge costs what the two pixels' disagreement does,
    cutting a pixel from its own terminal what disagreement with the noisy picture does.
    """
    n_pixels = noisy.size
    source, sink = n_pixels, n_pixels + 1
    a, b = grid_edges(*noisy.shape)
    ink = noisy.ravel()
    pixels = np.arange(n_pixels)
    tail = np.concatenate([a, b, np.where(ink, source, pixels)])
    head = np.concatenate([b, a, np.where(ink, pixels, sink)])
    strength = np.concatenate([np.full(2 * len(a), coupling), np.full(n_pixels, trust)])
    capacity = np.rint(2.0 * strength * _CAPACITY_SCALE).astype(np.int32)
    network = csr_array((capacity, (tail, head)), shape=(n_pixels + 2, n_pixels + 2))
    residual = csr_array(network - maximum_flow(network, source, sink).flow)
    residual.eliminate_zeros()
    reached = breadth_first_order(residual, source, return_predecessors=False)
    image = np.zeros(n_pixels + 2, dtype=bool)
    image[reached] = True
    return image[:n_pixels].reshape(noisy.shape)


def clean(noisy: np.ndarray, coupling: float, trust: float) -> list[Cleaned]:
    """By each of the three methods."""
    field = field_of(noisy, coupling, trust)
    start = torch.from_numpy(noisy.reshape(1, -1)).long()

    def by_modes() -> tuple[np.ndarray, str]:
        found = iterated_conditional_modes(field, start)
        return found.values.numpy(), f"{int(found.n_iterations)} sweeps"

    def by_max_sum() -> tuple[np.ndarray, str]:
        # Pixels near a tie are decided by what is left of the messages' way: they go to their end, undamped.
        nothing = torch.full_like(start, -1)
        found = loopy_max_sum(field, nothing, tolerance=1e-9, max_iterations=500)
        settled = "" if bool(found.converged) else ", not settled"
        return found.values.numpy(), f"{int(found.n_iterations)} rounds{settled}"

    def by_cut() -> tuple[np.ndarray, str]:
        return minimum_cut(noisy, coupling, trust), "the optimum"

    methods: list[tuple[str, Callable[[], tuple[np.ndarray, str]]]] = [
        ("iterated conditional modes", by_modes),
        ("loopy max-sum", by_max_sum),
        ("minimum cut", by_cut),
    ]
    results = []
    for name, method in methods:
        began = time.perf_counter()
        values, note = method()
        seconds = time.perf_counter() - began
        energy = float(field.energy(torch.from_numpy(values.reshape(1, -1)).long()))
        results.append(Cleaned(name, values.reshape(noisy.shape).astype(bool), energy, seconds, note))
    return results


def draw_figure(original: np.ndarray, noisy: np.ndarray, results: Sequence[Cleaned], target: Path) -> None:
    """Write the pictures side by side, with the pixels that are wrong marked in what was cleaned."""
    figure = Figure(figsize=(10.2, 4.85), dpi=160, facecolor="white")
    axes = figure.subplots(2, 3)
    figure.subplots_adjust(left=0.015, right=0.985, top=0.92, bottom=0.035, wspace=0.045, hspace=0.24)
    panels: list[tuple[str, str, np.ndarray, bool]] = [
        ("original", "", original, False),
        ("seen", _percent(noisy, original), noisy, False),
        *((result.name, _percent(result.image, original), result.image, True) for result in results),
    ]
    places = [axes[0, 0], axes[0, 1], axes[1, 0], axes[1, 1], axes[1, 2]]
    colours = np.array([_rgb(_PAPER), _rgb(_INK), _rgb(_WRONG)])
    for place, (name, wrong, image, marked) in zip(places, panels, strict=True):
        code = image.astype(int)
        if marked:
            code = np.where(image != original, 2, code)
        place.imshow(colours[code], interpolation="nearest")
        place.set(xticks=[], yticks=[])
        for spine in place.spines.values():
            spine.set(color=_FRAME, linewidth=0.8)
        place.set_title(name, loc="left", fontsize=11, color=_INK, pad=5)
        place.set_title(wrong, loc="right", fontsize=11, color=_MUTED, pad=5)
    _draw_bars(axes[0, 2], original, noisy, results)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, metadata={"Software": None})


def _draw_bars(axes: Axes, original: np.ndarray, noisy: np.ndarray, results: Sequence[Cleaned]) -> None:
    names = ["seen", *(result.name for result in results)]
    shares = [100.0 * float(np.mean(image != original)) for image in (noisy, *(r.image for r in results))]
    places = np.arange(len(names))[::-1]
    axes.barh(places, shares, height=0.34, color=[_MUTED, *[_WRONG] * len(results)])
    for place, name, share in zip(places, names, shares, strict=True):
        axes.text(0.0, place + 0.25, name, fontsize=9.5, color=_INK, va="bottom")
        axes.text(share + 0.15, place, f"{share:.2f} %", fontsize=9.5, color=_MUTED, va="center")
    axes.set(xlim=(0.0, max(shares) * 1.22), ylim=(-0.5, len(names) - 0.3))
    axes.axis("off")
    axes.set_title("wrong pixels, orange below", loc="left", fontsize=11, color=_INK, pad=5)


def _percent(image: np.ndarray, original: np.ndarray) -> str:
    return f"{100.0 * float(np.mean(image != original)):.2f} % wrong"


def _rgb(colour: str) -> list[float]:
    return [int(colour[place : place + 2], 16) / 255.0 for place in (1, 3, 5)]


def error_table(original: np.ndarray, noisy: np.ndarray, results: Sequence[Cleaned]) -> Table:
    """Error rates, energies above the minimum and times."""
    table = Table("picture", "wrong pixels", "of all", "energy above the minimum, nats", "seconds", "")
    for column in table.columns[1:5]:
        column.justify = "right"
    wrong = int((noisy != original).sum())
    table.add_row("seen", str(wrong), f"{100.0 * wrong / original.size:.2f} %", "", "", "")
    least = results[-1].energy
    for result in results:
        wrong = int((result.image != original).sum())
        table.add_row(
            result.name,
            str(wrong),
            f"{100.0 * wrong / original.size:.2f} %",
            f"{result.energy - least:.2f}",
            f"{result.seconds:.2f}",
            result.note,
        )
    return table


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--flip", type=float, default=0.1, help="share of pixels that are turned over")
    parser.add_argument("--coupling", type=float, default=1.0, help="beta, nats")
    parser.add_argument("--trust", type=float, help="eta, nats; by default what the share of flips says")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    if not 0.0 < options.flip < 0.5:
        parser.error(f"--flip: expected a number in (0, 0.5), came {options.flip}")
    for name in ("coupling", "trust"):
        value = getattr(options, name)
        if value is not None and not 0.0 < value <= 100.0:
            parser.error(f"--{name}: expected a number in (0, 100], came {value}")
    if options.output.suffix != ".png":
        parser.error(f"--output: expected a name that ends in .png, came {options.output}")
    if options.trust is None:
        options.trust = 0.5 * math.log((1.0 - options.flip) / options.flip)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, flip, clean, print and save."""
    options = _options(arguments)
    original = draw_picture()
    noisy = flip(original, options.flip, options.seed)
    try:
        results = clean(noisy, options.coupling, options.trust)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        draw_figure(original, noisy, results, options.output)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    Console().print(error_table(original, noisy, results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
